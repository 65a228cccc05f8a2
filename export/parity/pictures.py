"""Images of the gate as numbers and as pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .distances import STEP, Array

AMPLIFIED_PEAK = 255  # the largest difference in the picture of the worst sample is drawn this bright


def unit(values: npt.NDArray[np.uint8]) -> Array:
    """8-bit values to [-1, 1]: each stands for the middle of the interval that was truncated to it."""
    return (values.astype(np.float32) - 127.5) * np.float32(STEP)


def to_bytes(images: Array, form: str) -> npt.NDArray[np.uint8]:
    """Raw images ("float", or the numbers of "uint8") as 8-bit values, by the formula of the uint8 output; NaN as 0."""
    scaled = images if form == "uint8" else np.nan_to_num(images) * np.float32(127.5) + np.float32(128)
    return np.clip(scaled, 0, 255).astype(np.uint8)


def triplet(a: Array, b: Array, seed: int, psi: float) -> Any:
    """a | b | amplified difference, each at least 256 px wide, with a caption above. A PIL image."""
    from PIL import Image, ImageDraw

    difference = np.nan_to_num(np.abs(a - b) / STEP, nan=AMPLIFIED_PEAK, posinf=AMPLIFIED_PEAK)
    gain = AMPLIFIED_PEAK / max(float(difference.max()), 1e-9)
    panels = [to_bytes(a, "float"), to_bytes(b, "float"), np.clip(difference * gain, 0, 255).astype(np.uint8)]
    captions = (f"a: seed {seed}, psi {psi:g}", "b", f"|a - b| x {gain:.3g}")
    scale = max(1, -(-256 // a.shape[0]))
    side, top = a.shape[0] * scale, 20
    picture = Image.new("RGB", (3 * side, side + top), "white")
    for index, (panel, caption) in enumerate(zip(panels, captions, strict=True)):
        enlarged = Image.fromarray(panel).resize((side, side), Image.Resampling.NEAREST)
        picture.paste(enlarged, (index * side, top))
        ImageDraw.Draw(picture).text((index * side + 4, 4), caption, fill="black")
    return picture
