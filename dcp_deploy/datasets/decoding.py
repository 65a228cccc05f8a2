"""From the bytes of an image file to the pixels that a generator would draw."""

from __future__ import annotations

import io
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

Resize = Literal["error", "crop"]

# Raster formats whose readers stay within Pillow. Others would start programs (EPS: Ghostscript) or read no image.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")

_ORIENTATION = 0x0112  # EXIF
_DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N", "I")


class UnusableImageError(Exception):
    """An image that is damaged or does not fit; its text is the reason. Never leaves this package."""

    def __init__(self, reason: str, *, wrong_size: bool = False) -> None:
        super().__init__(reason)
        self.wrong_size = wrong_size


def decode(content: bytes, *, resolution: int, resize: Resize) -> NDArray[np.uint8]:
    """An encoded image as uint8 [R, R, 3], R the ``resolution``.

    ``resize`` "error" takes images of R x R pixels only. "crop" cuts the largest centred square and scales it down to
    R x R with Pillow's Lanczos filter, as NVIDIA's StyleGAN3 tool and rosinality's do; FID depends on that filter (the
    256 px FFHQ of the ADA paper was made with a box filter). Nothing is enlarged: that would teach a student blur.

    Colours: grey becomes three equal channels; 16-bit grey is rounded to 8; transparent images are laid on white; CMYK
    and palettes are converted by Pillow. Colour profiles are ignored, as the teachers' tools did. A camera's EXIF
    orientation is applied. Of several frames the first counts.

    Raises UnusableImageError with the reason.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_formats()) as image:
            _check_size(image.size, resolution, resize)
            image.load()
            upright = ImageOps.exif_transpose(image) if image.getexif().get(_ORIENTATION, 1) != 1 else image
            picture = _centre(_as_rgb(upright), resolution)
    except (UnusableImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise UnusableImageError("is no image" if content else "is empty") from error
    except Exception as error:  # Pillow's readers raise whatever breaks on damaged data, struct.error to SyntaxError
        raise UnusableImageError(str(error) or type(error).__name__) from error
    return np.asarray(picture)


@cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _check_size(size: tuple[int, int], resolution: int, resize: Resize) -> None:
    width, height = size
    if resize == "error" and size != (resolution, resolution):
        raise UnusableImageError(f"is {width}x{height} px, not {resolution}x{resolution}", wrong_size=True)
    if min(size) < resolution:
        raise UnusableImageError(f"is {width}x{height} px, smaller than {resolution}", wrong_size=True)
    if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:
        raise UnusableImageError(f"has {width}x{height} px, more than the {Image.MAX_IMAGE_PIXELS:,} Pillow allows")


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _DEEP_GREY:
        deep = np.asarray(image).astype(np.int64)
        if deep.min() < 0 or deep.max() > 0xFFFF:
            raise UnusableImageError("has more than 16 bits per pixel")
        image = Image.fromarray(((deep * 255 + 0x7FFF) // 0xFFFF).astype(np.uint8))
    if image.mode == "F":
        raise UnusableImageError("has floating-point pixels, whose white is not known")
    if image.has_transparency_data:
        clear = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
    return image.convert("RGB")


def _centre(image: Image.Image, resolution: int) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return square if side == resolution else square.resize((resolution, resolution), Image.Resampling.LANCZOS)
