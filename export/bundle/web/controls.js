// The form: what to draw, and its copy in the address after #, so that a link shows the same image.

import { LARGEST_SEED } from "./latents.js";

const STRONGEST = 3; // standard deviations

const element = (id) => document.getElementById(id);

export class Controls {
  /** Fills the form for a network with these numbers of classes and named directions; `onChange` follows its edits. */
  constructor({ classes, directions, onChange }) {
    this.classes = classes;
    this.sliders = directions.map((name, index) => makeSlider(name, index));
    element("sliders").append(...this.sliders.map((slider) => slider.parentElement));
    element("directions").hidden = !directions.length;
    element("class-field").hidden = !classes;
    for (let label = 0; label < classes; label++) element("class").add(new Option(`${label}`, `${label}`));
    this.read(new URLSearchParams(location.hash.slice(1)));
    this.onChange = onChange;
    element("controls").addEventListener("input", (event) => event.target.id !== "where" && this.changed());
    element("controls").addEventListener("submit", (event) => event.preventDefault());
    element("previous").addEventListener("click", () => (this.seed -= 1));
    element("next").addEventListener("click", () => (this.seed += 1));
    element("random").addEventListener("click", () => (this.seed = Math.floor(Math.random() * 1_000_000)));
    element("reset").addEventListener("click", () => this.reset());
    this.changed();
  }

  enable() {
    for (const id of ["basic", "directions", "device"]) element(id).disabled = false;
  }

  get seed() {
    return Number(element("seed").value);
  }

  /** Shows a seed, from the other end beyond the smallest and the largest, and draws it. */
  set seed(value) {
    const count = LARGEST_SEED + 1;
    element("seed").value = (value + count) % count;
    this.changed();
  }

  get valid() {
    const text = element("seed").value; // in a form that is not yet enabled, checkValidity is always true
    return text !== "" && Number.isInteger(Number(text)) && Number(text) >= 0 && Number(text) <= LARGEST_SEED;
  }

  get psi() {
    return Number(element("psi").value);
  }

  get strengths() {
    return Float32Array.from(this.sliders, (slider) => Number(slider.value));
  }

  /** Returns the class to draw a seed with. */
  labelOf(seed) {
    const chosen = element("class").value;
    return chosen === "" ? seed % this.classes : Number(chosen);
  }

  /** Returns what is set besides the seed as words, such as ["class 3", "psi 0.7", "smile = 1.5"]. */
  settings() {
    const label = this.classes && this.valid ? [`class ${this.labelOf(this.seed)}`] : [];
    const moved = this.sliders.filter((slider) => Number(slider.value));
    return [...label, `psi ${this.psi}`, ...moved.map((slider) => `${slider.dataset.name} = ${slider.value}`)];
  }

  reset() {
    for (const slider of this.sliders) slider.value = 0;
    this.changed();
  }

  changed() {
    element("psi-value").value = this.psi;
    for (const slider of this.sliders) slider.parentElement.querySelector("output").value = slider.value;
    element("seed").setAttribute("aria-invalid", String(!this.valid));
    element("seed-problem").hidden = this.valid;
    if (this.valid) history.replaceState(null, "", `#${this.address()}`);
    this.onChange?.();
  }

  address() {
    const moved = this.sliders.filter((slider) => Number(slider.value));
    const label = element("class").value;
    return new URLSearchParams([
      ["seed", this.seed],
      ["psi", this.psi],
      ...(label === "" ? [] : [["class", label]]),
      ...moved.map((slider) => [`move.${slider.dataset.name}`, slider.value]),
    ]);
  }

  /** Sets the form from an address; what does not fit it keeps its value. */
  read(address) {
    const set = (input, value, fits) => {
      const before = input.value;
      if (value !== null) input.value = value;
      if (!fits()) input.value = before;
    };
    const slide = (input, value) => Number.isFinite(Number(value ?? NaN)) && (input.value = value);
    set(element("seed"), address.get("seed"), () => this.valid);
    set(element("class"), address.get("class"), () => element("class").selectedIndex !== -1);
    slide(element("psi"), address.get("psi"));
    for (const slider of this.sliders) slide(slider, address.get(`move.${slider.dataset.name}`));
  }
}

function makeSlider(name, index) {
  const field = document.createElement("div");
  field.className = "field";
  const label = Object.assign(document.createElement("label"), { htmlFor: `direction-${index}`, textContent: name });
  const output = Object.assign(document.createElement("output"), { value: "0" });
  output.htmlFor.add(`direction-${index}`);
  const slider = Object.assign(document.createElement("input"), { type: "range", id: `direction-${index}` });
  Object.assign(slider, { min: -STRONGEST, max: STRONGEST, step: 0.1, value: 0 });
  slider.dataset.name = name;
  field.append(label, output, slider);
  return slider;
}
