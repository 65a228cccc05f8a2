"""Decoding of image files to pixels of the generator's size."""

from __future__ import annotations

import io
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ..sizes import Resolution, as_size, pixels

Resize = Literal["error", "crop"]

# Raster formats that Pillow reads by itself. Others start programs (EPS: Ghostscript) or are not images.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")

_ORIENTATION = 0x0112  # EXIF
_DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N", "I")


class UnusableImageError(Exception):
    """Raised inside this package for an image that is damaged or does not fit; the message says why."""

    def __init__(self, reason: str, *, wrong_size: bool = False) -> None:
        super().__init__(reason)
        self.wrong_size = wrong_size


def decode(content: bytes, *, resolution: Resolution, resize: Resize) -> NDArray[np.uint8]:
    """Decode an image file to uint8 [H, W, 3] of that ``resolution``. Raises UnusableImageError with the reason.

    ``resize`` "error" accepts only images of exactly that size. "crop" cuts the largest centred part of its shape, a
    square or a rectangle, and scales it down with Pillow's Lanczos filter, as the tools of StyleGAN3 and rosinality do.
    FID depends on that filter: the 256 px FFHQ of the ADA paper was made with a box filter. Images are never enlarged,
    because a student would learn the blur.

    Grey becomes three equal channels, 16-bit grey is rounded to 8 bits, transparency is blended with white, and Pillow
    converts CMYK and palettes. Colour profiles are ignored, as the teachers' tools do. The camera's EXIF orientation is
    applied. Only the first frame is read.
    """
    size = as_size(resolution)
    try:
        with Image.open(io.BytesIO(content), formats=_formats()) as image:
            _check_size(image.size, size, resize)
            image.load()
            upright = ImageOps.exif_transpose(image) if image.getexif().get(_ORIENTATION, 1) != 1 else image
            picture = _centre(_as_rgb(upright), size)
    except (UnusableImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise UnusableImageError("is not an image" if content else "is empty") from error
    except Exception as error:  # Pillow raises many types on damaged data, from struct.error to SyntaxError
        raise UnusableImageError(str(error) or type(error).__name__) from error
    return np.asarray(picture)


def image_header(content: bytes) -> tuple[str, tuple[int, int]]:
    """Return Pillow's name of the format ("PNG", "JPEG", ...), and width and height as stored, without decoding.

    Raises UnusableImageError if the content is not an image.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_formats()) as image:
            return "JPEG" if image.format == "MPO" else str(image.format), image.size
    except MemoryError:
        raise
    except Exception as error:  # as in decode
        raise UnusableImageError(str(error) or type(error).__name__) from error


@cache
def _formats() -> tuple[str, ...]:
    """Return those of FORMATS that this build of Pillow can read."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _check_size(found: tuple[int, int], size: tuple[int, int], resize: Resize) -> None:
    width, height = found
    if resize == "error" and (height, width) != size:
        raise UnusableImageError(f"is {width}x{height} px, not {size[1]}x{size[0]}", wrong_size=True)
    if height < size[0] or width < size[1]:
        least = pixels(size).removesuffix(" px")
        raise UnusableImageError(f"is {width}x{height} px, smaller than {least}", wrong_size=True)
    if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:
        raise UnusableImageError(f"has {width}x{height} px, more than Pillow's limit of {Image.MAX_IMAGE_PIXELS:,}")


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _DEEP_GREY:
        deep = np.asarray(image).astype(np.int64)
        if deep.min() < 0 or deep.max() > 0xFFFF:
            raise UnusableImageError("has more than 16 bits per pixel")
        image = Image.fromarray(((deep * 255 + 0x7FFF) // 0xFFFF).astype(np.uint8))
    if image.mode == "F":
        raise UnusableImageError("has floating-point pixels without a defined white")
    if image.has_transparency_data:
        clear = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
    return image.convert("RGB")


def _centre(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Cut the largest centred part with the proportions of ``size`` (height, width), and scale it to that size."""
    height, width = size
    if image.width * height >= image.height * width:  # too wide
        part = (round(image.height * width / height), image.height)
    else:
        part = (image.width, round(image.width * height / width))
    left, top = (image.width - part[0]) // 2, (image.height - part[1]) // 2
    cut = image.crop((left, top, left + part[0], top + part[1]))
    return cut if part == (width, height) else cut.resize((width, height), Image.Resampling.LANCZOS)
