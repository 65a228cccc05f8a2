// Promises around the worker in generator.js, which draws one image at a time; further calls wait.

const CLOSED = "the network was closed";

export class Engine {
  /** Opens the network in a new worker; `onProgress` gets the bytes of the file that have arrived. */
  static async open({ file, backend, threads, onProgress }) {
    const engine = new Engine();
    engine.worker.postMessage({ kind: "open", file: new URL(file, location.href).href, backend, threads });
    engine.onProgress = onProgress;
    try {
      Object.assign(engine, await engine.answer());
    } catch (error) {
      engine.close();
      throw error;
    }
    return engine;
  }

  constructor() {
    this.queue = Promise.resolve();
    this.worker = new Worker(new URL("./generator.js", import.meta.url), { type: "module" });
    this.worker.addEventListener("message", ({ data }) => this.receive(data));
    this.worker.addEventListener("error", (event) => {
      event.preventDefault();
      this.waiting?.reject(new Error(event.message || "the file generator.js of this page could not be loaded"));
    });
  }

  answer() {
    return new Promise((resolve, reject) => (this.waiting = { resolve, reject }));
  }

  receive(message) {
    if (message.kind === "progress") return this.onProgress?.(message.loaded);
    const { resolve, reject } = this.waiting;
    return message.kind === "failed" ? reject(new Error(message.reason)) : resolve(message);
  }

  /** Returns {pixels, milliseconds}: RGB bytes row by row, and how long the network took. */
  draw(inputs) {
    const drawn = this.queue.then(() => {
      if (this.closed) throw new Error(CLOSED);
      this.worker.postMessage({ kind: "draw", inputs });
      return this.answer();
    });
    this.queue = drawn.catch(() => {});
    return drawn;
  }

  /** Ends the worker; a draw that has no answer yet fails. */
  close() {
    this.closed = true;
    this.worker.terminate();
    this.waiting?.reject(new Error(CLOSED));
  }
}
