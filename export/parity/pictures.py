"""Conversion of images between [-1, 1] and 8 bits, and the picture of the worst sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .distances import STEP, Array

AMPLIFIED_PEAK = 255  # brightness of the largest difference in the picture of the worst sample


def unit(values: npt.NDArray[np.uint8]) -> Array:
    """Convert 8-bit values to [-1, 1]: each becomes the middle of the interval that was truncated to it."""
    return (values.astype(np.float32) - 127.5) * np.float32(STEP)


def to_bytes(images: Array, image: str) -> npt.NDArray[np.uint8]:
    """Convert raw "float" or "uint8" images to 8-bit values, by the formula of the uint8 output; NaN is taken as 0."""
    scaled = images if image == "uint8" else np.nan_to_num(images) * np.float32(127.5) + np.float32(128)
    return np.clip(scaled, 0, 255).astype(np.uint8)


def triplet(a: Array, b: Array, seed: int, psi: float) -> Any:
    """Return a | b | amplified difference, each at least 256 px high, with a caption above, as a PIL image."""
    from PIL import Image, ImageDraw

    difference = np.nan_to_num(np.abs(a - b) / STEP, nan=AMPLIFIED_PEAK, posinf=AMPLIFIED_PEAK)
    gain = AMPLIFIED_PEAK / max(float(difference.max()), 1e-9)
    panels = [to_bytes(a, "float"), to_bytes(b, "float"), np.clip(difference * gain, 0, 255).astype(np.uint8)]
    captions = (f"a: seed {seed}, psi {psi:g}", "b", f"|a - b| x {gain:.3g}")
    scale = max(1, -(-256 // a.shape[0]))
    (height, width), top = (side * scale for side in a.shape[:2]), 20
    picture = Image.new("RGB", (3 * width, height + top), "white")
    for index, (panel, caption) in enumerate(zip(panels, captions, strict=True)):
        enlarged = Image.fromarray(panel).resize((width, height), Image.Resampling.NEAREST)
        picture.paste(enlarged, (index * width, top))
        ImageDraw.Draw(picture).text((index * width + 4, 4), caption, fill="black")
    return picture
