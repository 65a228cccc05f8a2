"use strict";
// Show one seed of teacher and student at a time, divided by a slider.
(() => {
  const box = document.querySelector(".compare");
  if (!box) return;
  const rows = (model) => [...document.querySelectorAll(`img[data-model="${model}"]`)];
  const layers = ["teacher", "student"].map((model) => [box.querySelector(`.${model}`), rows(model)]);
  const seed = box.querySelector("select");
  const edge = box.querySelector("input");
  const columns = Number(box.dataset.columns);
  const choose = () => {
    const row = Math.floor(seed.selectedIndex / columns);
    const column = seed.selectedIndex % columns;
    for (const [layer, images] of layers) {
      const image = images[row];
      const across = Number(image.dataset.count);
      layer.style.backgroundImage = `url(${image.src})`;
      layer.style.backgroundSize = `${100 * across}% 100%`;
      layer.style.backgroundPosition = `${across > 1 ? (100 * column) / (across - 1) : 0}% 0`;
      box.style.setProperty("--shape", `${image.naturalWidth / across} / ${image.naturalHeight}`);
    }
  };
  const move = () => box.style.setProperty("--edge", `${edge.value}%`);
  seed.addEventListener("change", choose);
  edge.addEventListener("input", move);
  const first = layers[0][1][0];
  first.decode().then(() => {
    choose();
    move();
    box.hidden = false;
  });
})();
