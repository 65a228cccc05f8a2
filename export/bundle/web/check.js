// Compares images of this browser with the golden ones that came with the page, within the tolerance of the gate that
// the file passed when the page was made.

const GOLDEN = "golden/generator";

/** Returns the RGBA pixels of a PNG of this page. */
async function pixelsOf(address) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${address} is missing on the server (status ${response.status})`);
  const bitmap = await createImageBitmap(await response.blob(), { colorSpaceConversion: "none" });
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height).data;
}

/** Adds up how far two images are apart, in steps of 8 bits. */
function compare(pixels, golden, sums) {
  let squares = 0;
  for (let index = 0, at = 0; index < pixels.length; index += 3, at += 4) {
    for (let channel = 0; channel < 3; channel++) {
      const steps = Math.abs(pixels[index + channel] - golden[at + channel]);
      sums.largest = Math.max(sums.largest, steps);
      sums.differing += steps > 0;
      squares += steps * steps;
    }
  }
  sums.values += pixels.length;
  sums.psnr = Math.min(sums.psnr, 10 * Math.log10((255 * 255 * pixels.length) / squares));
}

/** Draws golden images (the first `count`) by `draw(seed, psi)` and returns {passed, words}. */
export async function checkImages(draw, tolerance, count = Infinity) {
  const golden = await (await fetch(`${GOLDEN}/golden.json`)).json();
  const sums = { largest: 0, differing: 0, values: 0, psnr: Infinity };
  const images = golden.images.slice(0, count);
  for (const { seed, psi, file } of images) {
    compare(await draw(seed, psi), await pixelsOf(`${GOLDEN}/${file}`), sums);
  }
  const share = sums.differing / sums.values;
  const passed =
    sums.largest <= (tolerance.max_steps ?? 255) &&
    share <= (tolerance.differing ?? 1) &&
    sums.psnr >= (tolerance.psnr_db ?? 0);
  const far = sums.largest ? `at most ${sums.largest} of 255 steps, in ${(100 * share).toFixed(3)} % of the values` : "none";
  const verdict = passed ? "This browser draws the golden images" : "This browser draws other images than the golden ones";
  return { passed, words: `${verdict}. Compared: ${images.length}. Differences: ${far}.` };
}
