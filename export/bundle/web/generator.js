// The worker that holds the network: it opens the ONNX file with ONNX Runtime Web and generates one image per message.
//
//   {kind: "open", file, backend, threads}           -> progress {loaded}, then opened {backend, threads}
//   {kind: "draw", inputs: {name: [values, dims]}}   -> drawn {pixels: RGB bytes, milliseconds}
//
// A message that fails is answered by failed {reason}.

const RUNTIMES = { webgpu: "./runtime/ort.webgpu.min.mjs", wasm: "./runtime/ort.wasm.min.mjs" };

let runtime = null;
let session = null;

/** Fetches a file and reports the bytes that have arrived. */
async function fetchBytes(address, report) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${address} is missing on the server (status ${response.status})`);
  const parts = [];
  let loaded = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    loaded += value.length;
    report(loaded);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** Returns whether this browser has WebGPU on a real graphics processor. */
async function hasWebGpu() {
  const adapter = await navigator.gpu?.requestAdapter();
  return Boolean(adapter) && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter);
}

async function start(model, backend, threads) {
  if (backend === "webgpu" && !navigator.gpu) throw new Error("this browser has no WebGPU");
  runtime = await import(RUNTIMES[backend]);
  runtime.env.wasm.numThreads = threads;
  runtime.env.wasm.wasmPaths = new URL("./runtime/", import.meta.url).href;
  runtime.env.logLevel = "error";
  session = await runtime.InferenceSession.create(model, { executionProviders: [backend] });
}

async function open({ file, backend, threads }) {
  const model = await fetchBytes(file, (loaded) => postMessage({ kind: "progress", loaded }));
  const chosen = backend === "auto" ? ((await hasWebGpu()) ? "webgpu" : "wasm") : backend;
  await start(model, chosen, threads);
  postMessage({ kind: "opened", backend: chosen, threads });
}

async function draw({ inputs }) {
  const begin = performance.now();
  const feeds = {};
  for (const [name, [values, dims]] of Object.entries(inputs)) {
    feeds[name] = new runtime.Tensor("float32", values, dims);
  }
  const { image } = await session.run(feeds);
  const pixels = new Uint8Array(await image.getData());
  image.dispose();
  postMessage({ kind: "drawn", pixels, milliseconds: performance.now() - begin }, [pixels.buffer]);
}

addEventListener("message", async ({ data }) => {
  try {
    await (data.kind === "open" ? open(data) : draw(data));
  } catch (error) {
    postMessage({ kind: "failed", reason: error?.message ?? String(error) });
  }
});
