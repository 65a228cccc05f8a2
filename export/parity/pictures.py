"""Conversion of images between [-1, 1] and 8 bits, and the picture of the worst sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...files import escaped
from .distances import STEP, Array

AMPLIFIED_PEAK = 255  # brightness of the largest difference in the picture of the worst sample
CAPTION = 32  # px above each image of that picture: two lines
GAP = 8  # px between its images


def unit(values: npt.NDArray[np.uint8]) -> Array:
    """Convert 8-bit values to [-1, 1]: each becomes the middle of the interval that was truncated to it."""
    return (values.astype(np.float32) - 127.5) * np.float32(STEP)


def to_bytes(images: Array, image: str) -> npt.NDArray[np.uint8]:
    """Convert raw "float" or "uint8" images to 8-bit values, by the formula of the uint8 output; NaN is taken as 0."""
    scaled = images if image == "uint8" else np.nan_to_num(images) * np.float32(127.5) + np.float32(128)
    return np.clip(scaled, 0, 255).astype(np.uint8)


def triplet(a: Array, b: Array, seed: int, psi: float, names: Sequence[str] = ("", "")) -> Any:
    """Return a | b | amplified difference, each at least 256 px high, with captions above, as a PIL image.

    ``names`` are those of the artefacts. A name that is wider than its image is cut in the middle.
    """
    from PIL import Image, ImageDraw, ImageFont

    difference = np.nan_to_num(np.abs(a - b) / STEP, nan=AMPLIFIED_PEAK, posinf=AMPLIFIED_PEAK)
    peak = float(difference.max())
    gain = AMPLIFIED_PEAK / peak if peak > 0 else 1.0
    panels = [to_bytes(a, "float"), to_bytes(b, "float"), np.clip(difference * gain, 0, 255).astype(np.uint8)]
    scale = max(1, -(-256 // a.shape[0]))
    height, width = (side * scale for side in a.shape[:2])
    font = ImageFont.load_default()
    shown = [shortened(f"{letter}: {name}", width, font) for letter, name in zip("ab", names, strict=True)]
    last = f"|a - b| x {gain:.3g}" if peak > 0 else "no difference"
    captions = (f"{shown[0]}\nseed {seed}, psi {psi:g}", shown[1], last)
    picture = Image.new("RGB", (3 * width + 2 * GAP, height + CAPTION), "white")
    for index, (panel, caption) in enumerate(zip(panels, captions, strict=True)):
        left = index * (width + GAP)
        enlarged = Image.fromarray(panel).resize((width, height), Image.Resampling.NEAREST)
        picture.paste(enlarged, (left, CAPTION))
        ImageDraw.Draw(picture).multiline_text((left, 2), caption, "black", font)
    return picture


def shortened(name: str, width: int, font: Any) -> str:
    """Return a name that fits into ``width`` px: "a_long_na...safetensors" if the whole one does not."""
    name = " ".join(escaped(name).split())
    for kept in range(len(name), 0, -1):
        shown = name if kept == len(name) else f"{name[: kept // 2]}...{name[len(name) - (kept - kept // 2) :]}"
        if font.getlength(shown) <= width:
            return shown
    return ""
