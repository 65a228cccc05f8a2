// The page: loads manifest.json, opens the network, and draws what the form says.

import { checkImages } from "./check.js";
import { Controls } from "./controls.js";
import { Engine } from "./engine.js";
import { between, latentOf, LARGEST_SEED } from "./latents.js";

const WALK_MILLISECONDS = 2000; // from one seed to the next while playing
const WORKER_MILLISECONDS = 5000; // to wait for the service worker
const SAMPLES = 30; // draws that the shown figures are of
const MOST_THREADS = 8;
const NAMES = { webgpu: "WebGPU", wasm: "WebAssembly" };

const element = (id) => document.getElementById(id);
const say = (id, words) => (element(id).textContent = words);

let manifest, controls, engine;
let changed = false; // the form has changed since the last draw
let drawing = false;
let walk = null; // {seed, begin} while playing
let times = []; // milliseconds of the last draws
let shown = []; // moments at which images were shown while playing

// ---- starting ----

async function start() {
  element("unstarted").remove();
  if (typeof WebAssembly !== "object") throw new Error("This browser has no WebAssembly, or it is switched off.");
  if (await becomeIsolated()) return;
  manifest = await readManifest();
  const { inputs, output } = manifest.model;
  document.title = manifest.name;
  say("name", manifest.name);
  say("origin", `Made by ${manifest.tool}. Licence of the network: ${manifest.provenance.licence}.`);
  [element("image").height, element("image").width] = output.image;
  controls = new Controls({
    classes: inputs.c?.[0] ?? 0,
    directions: Object.keys(manifest.directions),
    onChange: () => refresh(),
  });
  connect();
  await open("auto");
  controls.enable();
}

/** Reloads the page through a service worker that adds headers, if its server sends none. Returns whether it does. */
async function becomeIsolated() {
  if (crossOriginIsolated || !navigator.serviceWorker) return false;
  try {
    if (sessionStorage.getItem("isolation")) return false;
    const late = new Promise((resolve) => setTimeout(resolve, WORKER_MILLISECONDS));
    const ready = navigator.serviceWorker.register("./isolation.js").then(() => navigator.serviceWorker.ready);
    if (!(await Promise.race([ready, late]))) return false;
    sessionStorage.setItem("isolation", "tried");
  } catch {
    return false; // no service worker or no storage is allowed: then with one thread
  }
  location.reload();
  return true;
}

async function readManifest() {
  const response = await fetch("manifest.json").catch(() => null);
  if (!response?.ok) throw new Error("The file manifest.json of this page cannot be loaded: the folder is not complete.");
  return response.json();
}

function connect() {
  element("walk").addEventListener("click", () => (walk ? stop() : play()));
  element("download").addEventListener("click", download);
  element("check").addEventListener("click", check);
  element("where").addEventListener("change", () => reopen(element("where").value));
}

// ---- the network ----

/** Opens the network on a backend; WebGPU only if it draws the first golden image, else WebAssembly. */
async function open(backend) {
  closeEngine();
  const wanted = backend === "auto" && !navigator.gpu ? "wasm" : backend;
  try {
    engine = await openOn(wanted);
    if (engine.backend === "webgpu") await requireGolden();
  } catch (error) {
    if (wanted === "wasm") throw sentence(error);
    closeEngine();
    engine = await openOn("wasm");
    if (backend === "webgpu") element("where").value = "wasm"; // what runs, so that WebGPU can be chosen again
    complain(`WebGPU does not work here, so WebAssembly is used. ${sentence(error).message}`);
  }
  const threads = engine.threads === 1 ? "1 thread" : `${engine.threads} threads`;
  say("backend", engine.backend === "wasm" ? `${NAMES.wasm}, ${threads}` : NAMES.webgpu);
  say("threads", crossOriginIsolated ? "" : ALONE);
  say("status", "Ready.");
  [times, shown] = [[], []];
  say("speed", "press Play");
  for (const id of ["walk", "download"]) element(id).disabled = false;
  await refresh();
}

function closeEngine() {
  engine?.close();
  engine = null;
}

const ALONE =
  "WebAssembly has one thread here, because the page is not cross-origin isolated. The README says which headers its server should send.";

async function openOn(backend) {
  const { onnx } = manifest.model;
  const whole = manifest.files[onnx].bytes;
  const mega = (bytes) => (bytes / 1e6).toFixed(1);
  return Engine.open({
    file: onnx,
    backend,
    threads: crossOriginIsolated ? threadsOf(navigator.hardwareConcurrency ?? 1) : 1,
    onProgress: (loaded) =>
      say("status", loaded < whole ? `Loading the network: ${mega(loaded)} of ${mega(whole)} MB.` : "Loading ONNX Runtime."),
  });
}

/** Returns how many threads to use: all of a few logical cores, half of many, of which two share a core. */
function threadsOf(cores) {
  return cores <= 4 ? cores : Math.min(MOST_THREADS, Math.ceil(cores / 2));
}

async function requireGolden() {
  const { passed, words } = await checkImages(drawGolden, manifest.model.parity.tolerance, 1);
  if (!passed) throw new Error(words);
}

async function reopen(backend) {
  stop();
  complain("");
  say("backend", "starting");
  for (const id of ["walk", "download"]) element(id).disabled = true;
  element("device").disabled = true;
  await open(backend).catch(fail);
  element("device").disabled = false;
}

// ---- drawing ----

function inputsOf(latent, label, psi, strengths) {
  const { inputs } = manifest.model;
  const feeds = { z: [latent, [1, latent.length]], psi: [Float32Array.of(psi), [1]] };
  if (inputs.c) feeds.c = [label, [1, label.length]];
  if (inputs.strengths) feeds.strengths = [strengths, [1, strengths.length]];
  return feeds;
}

function oneHot(index, size) {
  const label = new Float32Array(size);
  if (size) label[index] = 1;
  return label;
}

/** Returns latent and class of a seed. */
function codesOf(seed, choose = (one) => controls.labelOf(one)) {
  const { z, c } = manifest.model.inputs;
  return { latent: latentOf(seed, z[0]), label: oneHot(choose(seed), c?.[0] ?? 0) };
}

async function drawGolden(seed, psi) {
  const { latent, label } = codesOf(seed, (one) => one % (manifest.model.inputs.c?.[0] ?? 1));
  const still = new Float32Array(Object.keys(manifest.directions).length);
  return (await engine.draw(inputsOf(latent, label, psi, still))).pixels;
}

/** Draws until the image is the one that the form asks for, and on while playing. */
async function refresh() {
  changed = true;
  if (drawing || !engine) return;
  drawing = true;
  try {
    while (engine && (changed || walk)) {
      changed = false;
      await drawOne();
    }
  } catch (error) {
    walk = null;
    fail(error);
  } finally {
    drawing = false;
  }
}

async function drawOne() {
  if (!controls.valid) return stop();
  const playing = walk !== null;
  const seed = controls.seed;
  const { latent, label } = playing ? step() : codesOf(seed);
  const words = [playing ? `Between seeds ${walk.seed} and ${walk.seed + 1}` : `Seed ${seed}`, ...controls.settings()];
  const used = engine;
  const inputs = inputsOf(latent, label, controls.psi, controls.strengths);
  const drawn = await used.draw(inputs).catch((error) => {
    if (used === engine) throw error;
  });
  if (used !== engine) return; // closed meanwhile, to open the network elsewhere
  show(drawn.pixels, words.join(", "), playing);
  measure(drawn.milliseconds, playing);
}

function show(pixels, words, playing) {
  const canvas = element("image");
  const image = new ImageData(canvas.width, canvas.height);
  for (let from = 0, to = 0; from < pixels.length; from += 3, to += 4) {
    image.data[to] = pixels[from];
    image.data[to + 1] = pixels[from + 1];
    image.data[to + 2] = pixels[from + 2];
    image.data[to + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  say("caption", words);
  if (!playing) canvas.setAttribute("aria-label", `Generated image. ${words}.`);
  canvas.dataset.words = words;
}

function measure(milliseconds, playing) {
  times = [...times, milliseconds].slice(-SAMPLES);
  const middle = times.toSorted((a, b) => a - b)[times.length >> 1];
  say("time", `${middle.toFixed(middle < 10 ? 1 : 0)} ms`);
  shown = playing ? [...shown, performance.now()].slice(-SAMPLES - 1) : [];
  if (shown.length < 2) return;
  const frames = (1000 * (shown.length - 1)) / (shown.at(-1) - shown[0]);
  say("speed", frames.toFixed(frames < 10 ? 1 : 0));
}

// ---- playing ----

function play() {
  walk = { seed: controls.seed, begin: performance.now() };
  say("walk", "Stop");
  element("download").disabled = true;
  refresh();
}

/** Moves on with the time; returns latent and class between two seeds. */
function step() {
  let share = (performance.now() - walk.begin) / WALK_MILLISECONDS;
  if (share >= 1) {
    controls.seed += 1;
    walk = { seed: controls.seed, begin: performance.now() };
    share = 0;
  }
  const [from, to] = [codesOf(walk.seed), codesOf((walk.seed + 1) % (LARGEST_SEED + 1))];
  const mixed = from.label.map((value, index) => (1 - share) * value + share * to.label[index]);
  return { latent: between(from.latent, to.latent, share), label: mixed };
}

function stop() {
  if (!walk) return;
  walk = null;
  say("walk", "Play");
  element("download").disabled = false;
  refresh();
}

// ---- the other buttons ----

function download() {
  const words = element("image").dataset.words.toLowerCase().replace(/, /g, "-").replace(/ /g, "");
  const name = words.replace(/[^a-z0-9.=-]/g, "_");
  element("image").toBlob((file) => {
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(file), download: `${name}.png` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }, "image/png");
}

async function check() {
  stop();
  const verdict = element("verdict");
  verdict.className = "note";
  say("verdict", "Drawing and comparing.");
  element("device").disabled = true;
  try {
    const { passed, words } = await checkImages(drawGolden, manifest.model.parity.tolerance);
    verdict.classList.add(passed ? "good" : "bad");
    say("verdict", words);
  } catch (error) {
    verdict.classList.add("bad");
    say("verdict", sentence(error).message);
  }
  element("device").disabled = false;
}

// ---- what goes wrong ----

function complain(words) {
  say("problem", words);
  element("problem").hidden = !words;
}

function sentence(error) {
  const text = String(error?.message ?? error).trim();
  return new Error(`${text[0]?.toUpperCase() ?? ""}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`);
}

function fail(error) {
  complain(`The network cannot be run. ${sentence(error).message}`);
  say("status", "Stopped.");
}

start().catch(fail);
