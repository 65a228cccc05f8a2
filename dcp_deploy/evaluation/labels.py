"""A page of images with words above its columns and left of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_SMALLEST = 10  # pixels of the font; Pillow's own is legible from here on
_SHARE = 12  # tile's width by font's height
_GAP = 32  # tile's width by the white between images


@dataclass(frozen=True)
class Row:
    """Images uint8 [N, H, W, 3] side by side; ``above``: a text for each, or none at all; ``left``: one for all."""

    images: NDArray[np.uint8]
    above: Sequence[str] = ()
    left: str = ""


def labelled_page(rows: Sequence[Row]) -> NDArray[np.uint8]:
    """Put rows below each other on white, uint8 [H, W, 3]. The images stay as they are, pixel for pixel.

    Images are apart by a white gap. A text may have several lines. Where a text is larger than its image, more white
    is left around the images.
    """
    height, width = rows[0].images.shape[1:3]
    font, gap = ImageFont.load_default(max(_SMALLEST, width // _SHARE)), max(2, width // _GAP)
    tops = [max((_size(text, font)[1] for text in row.above), default=0) for row in rows]
    margin, tall = (max(sizes) for sizes in zip(*(_size(row.left, font) for row in rows), strict=True))
    cell = max([width, *(_size(text, font)[0] for row in rows for text in row.above)])
    tall = max(tall, height)
    columns = max(len(row.images) for row in rows)
    across, down = cell + gap, tall + gap  # from an image to the next
    page = Image.new("RGB", (margin + columns * across - gap, sum(tops) + len(rows) * down - gap), "white")
    y = 0
    for row, top in zip(rows, tops, strict=True):
        for column, text in enumerate(row.above):
            page.paste(_label(text, (cell, top), font), (margin + column * across, y))
        y += top
        if row.left:
            page.paste(_label(row.left, (margin, tall), font), (0, y))
        for column, image in enumerate(row.images):
            place = (margin + column * across + (cell - width) // 2, y + (tall - height) // 2)
            page.paste(Image.fromarray(image), place)
        y += down
    return np.asarray(page)


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def _size(text: str, font: Font) -> tuple[int, int]:
    """Return width and height of a text with some space around it; nothing for an empty one."""
    if not text:
        return 0, 0
    left, top, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox((0, 0), text, font)
    return int(right - left) + 8, int(bottom - top) + 6


def _label(text: str, size: tuple[int, int], font: Font) -> Image.Image:
    """Draw a text in the middle of a white tile."""
    tile = Image.new("RGB", size, "white")
    ImageDraw.Draw(tile).multiline_text((size[0] / 2, size[1] / 2), text, "black", font, anchor="mm", align="center")
    return tile
