"""Decoding of image files: colours, sizes and damage."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dcp_deploy.datasets.decoding import FORMATS, UnusableImageError, decode

ImageFile = Callable[..., bytes]


def saved(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=format, **options)
    return stream.getvalue()


def flat(mode: str, colour: Any, size: int = 4) -> Image.Image:
    return Image.new(mode, (size, size), colour)


def colour_of(content: bytes, size: int = 4) -> list[int]:
    """Decode an image of one colour and return the colour."""
    image = decode(content, resolution=size, resize="error")
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    assert (image == image[0, 0]).all()
    return [int(value) for value in image[0, 0]]


# ---- colours ----


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (flat("RGB", (1, 2, 3)), [1, 2, 3]),
        (flat("L", 77), [77, 77, 77]),
        (flat("1", 1), [255, 255, 255]),
        (flat("LA", (77, 255)), [77, 77, 77]),
        (flat("LA", (77, 0)), [255, 255, 255]),
        (flat("RGBA", (10, 20, 30, 255)), [10, 20, 30]),
        (flat("RGBA", (10, 20, 30, 0)), [255, 255, 255]),  # the colour under a transparent pixel is arbitrary
        (flat("I;16", 65535), [255, 255, 255]),
        (flat("I;16", 257 * 100), [100, 100, 100]),
        (flat("I;16", 257 * 100 + 128), [100, 100, 100]),
        (flat("I;16", 257 * 100 + 129), [101, 101, 101]),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else str(value),
)
def test_png_colours(image: Image.Image, colour: list[int]) -> None:
    assert colour_of(saved(image)) == colour


def test_half_transparent_pixels_are_blended_with_white() -> None:
    # 200/255 black and 55/255 white
    assert colour_of(saved(flat("RGBA", (0, 0, 0, 200)))) == [55, 55, 55]


def test_a_palette_gives_its_colours_and_its_transparent_entry_is_white() -> None:
    image = flat("P", 1)
    image.putpalette([9, 9, 9, 50, 60, 70])
    assert colour_of(saved(image)) == [50, 60, 70]
    assert colour_of(saved(image, transparency=1)) == [255, 255, 255]


def test_cmyk_is_converted() -> None:
    assert colour_of(saved(flat("CMYK", (0, 0, 0, 0)), "TIFF")) == [255, 255, 255]
    assert colour_of(saved(flat("CMYK", (0, 0, 0, 255)), "TIFF")) == [0, 0, 0]


@pytest.mark.parametrize(
    "image", [flat("F", 0.5), flat("I", 70_000), flat("I", -1)], ids=["F", "I too bright", "I below black"]
)
def test_pixels_without_a_known_white_are_refused(image: Image.Image) -> None:
    with pytest.raises(UnusableImageError, match="pixel"):
        decode(saved(image, "TIFF"), resolution=4, resize="error")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read(name: str) -> None:
    options = {"lossless": True} if name == "WEBP" else {"irreversible": False} if name == "JPEG2000" else {}
    colour = colour_of(saved(flat("RGB", (200, 100, 50), 16), name, **options), 16)
    # JPEG rounds luma and chroma to whole numbers, which may change a colour by two.
    assert np.abs(np.subtract(colour, [200, 100, 50])).max() <= (2 if name == "JPEG" else 0)


def test_the_cameras_orientation_is_applied() -> None:
    pixels = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate clockwise
    turned = decode(saved(Image.fromarray(pixels), exif=exif), resolution=4, resize="error")
    assert np.array_equal(turned, np.rot90(pixels, -1))


# ---- sizes ----


def test_crop_takes_the_centred_square() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 11, 3), np.uint8)
    wide, tall = Image.fromarray(pixels), Image.fromarray(pixels.swapaxes(0, 1))
    assert np.array_equal(decode(saved(wide), resolution=6, resize="crop"), pixels[:, 2:8])
    assert np.array_equal(decode(saved(tall), resolution=6, resize="crop"), pixels[:, 2:8].swapaxes(0, 1))


@pytest.mark.parametrize(
    ("found", "wanted", "part"),  # height and width; rows and columns of the part that is kept
    [
        ((6, 12), (6, 3), (slice(0, 6), slice(4, 7))),
        ((12, 6), (6, 3), (slice(0, 12), slice(0, 6))),
        ((14, 6), (6, 3), (slice(1, 13), slice(0, 6))),
        ((8, 8), (4, 6), (slice(1, 6), slice(0, 8))),  # 8 x 5 1/3 px, rounded
    ],
)
def test_crop_takes_the_centred_rectangle(
    found: tuple[int, int], wanted: tuple[int, int], part: tuple[slice, slice]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*found, 3), np.uint8)
    expected = Image.fromarray(pixels[part]).resize(wanted[::-1], Image.Resampling.LANCZOS)
    assert np.array_equal(decode(saved(Image.fromarray(pixels)), resolution=wanted, resize="crop"), expected)


@pytest.mark.parametrize(
    ("size", "resize", "message"),  # width and height, as Pillow gives them
    [((4, 8), "error", "is 4x8 px, not 8x4"), ((7, 9), "crop", "is 7x9 px, smaller than 8x4")],
)
def test_another_shape_is_refused(size: tuple[int, int], resize: Any, message: str) -> None:
    with pytest.raises(UnusableImageError, match=message) as caught:
        decode(saved(Image.new("RGB", size)), resolution=(4, 8), resize=resize)
    assert caught.value.wrong_size


def test_scaling_down_is_lanczos() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8))
    expected = np.asarray(image.crop((4, 0, 16, 12)).resize((4, 4), Image.Resampling.LANCZOS))
    assert np.array_equal(decode(saved(image), resolution=4, resize="crop"), expected)


@pytest.mark.parametrize(
    ("size", "resize", "message"),
    [
        ((8, 8), "error", "is 8x8 px, not 4x4"),
        ((4, 5), "error", "is 4x5 px, not 4x4"),
        ((9, 3), "crop", "is 9x3 px, smaller than 4"),
    ],
)
def test_another_size_is_refused(size: tuple[int, int], resize: Any, message: str) -> None:
    with pytest.raises(UnusableImageError, match=message) as caught:
        decode(saved(Image.new("RGB", size)), resolution=4, resize=resize)
    assert caught.value.wrong_size


# ---- damage ----


def png_of_size(width: int, height: int) -> bytes:
    """Return a PNG whose header states a size but which holds no pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("side", [10_000, 100_000], ids=["Pillow warns", "Pillow refuses"])
def test_a_decompression_bomb_is_refused(side: int) -> None:
    with pytest.raises(UnusableImageError, match=r"exceeds limit|Pillow's limit"):
        decode(png_of_size(side, side), resolution=4, resize="crop")


def test_a_bomb_is_refused_even_if_pillow_only_warns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(UnusableImageError, match="has 10000x10000 px, more than Pillow's limit of 89,478,485"):
            decode(png_of_size(10_000, 10_000), resolution=4, resize="crop")


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>404</html>", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n", b"\x89PNG\r\n\x1a\n"],
    ids=["empty", "a page", "a program for Ghostscript", "a bare signature"],
)
def test_content_other_than_images_is_refused(content: bytes) -> None:
    with pytest.raises(UnusableImageError):
        decode(content, resolution=4, resize="error")


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "BMP"])
def test_half_an_image_is_refused(name: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    content = saved(Image.fromarray(pixels), name)
    with pytest.raises(UnusableImageError):
        decode(content[: len(content) // 2], resolution=64, resize="error")


def test_damage_anywhere_raises_a_reason_or_gives_an_image(image_file: ImageFile) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
    for suffix in (".png", ".jpg", ".webp", ".bmp", ".gif", ".tiff"):
        content = np.frombuffer(image_file(pixels, suffix), np.uint8)
        for _ in range(100):
            damaged = content.copy()
            damaged[rng.integers(0, len(damaged), 4)] = rng.integers(0, 256, 4)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow warns about strange metadata
                try:
                    image = decode(damaged.tobytes(), resolution=16, resize="error")
                except UnusableImageError as error:
                    assert str(error)
                else:
                    assert image.shape == (16, 16, 3) and image.dtype == np.uint8
