"""Picture and animation files: the suffix decides the format, and a file appears under its name only when complete."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from ...errors import MissingCapabilityError, UsageError
from ...files import atomic_path, write_bytes

PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
ANIMATIONS = {".gif": "GIF", ".webp": "WEBP", ".mp4": "MP4"}
FRAMES_PER_SECOND = 25  # 40 ms a frame: a GIF counts in hundredths of a second
_LARGEST = {"WEBP": 16_383, "JPEG": 65_500, "GIF": 65_535}  # pixels of a side that the format or its library allows
_PICTURE_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "PNG": {"optimize": True},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
}
_RATE_FACTOR = 16  # of H.264, from 0 (lossless) to 51: hardly visible losses


def picture_format(path: Path, *, animated: bool = False) -> str:
    """Return the format that a file's suffix names, in either case of letters.

    Raises UsageError for any other suffix, MissingCapabilityError if this machine cannot write the format.
    """
    known = ANIMATIONS if animated else PICTURES
    suffix = path.suffix.lower()
    if suffix not in known:
        kind = "an animation" if animated else "a picture"
        raise UsageError(
            f"{path} has no suffix of {kind}" if not suffix else f"{path}: {suffix} is not a suffix of {kind}",
            f"Name it {path.stem}{next(iter(known))}; known: {', '.join(known)}.",
        )
    if known[suffix] == "WEBP" and not features.check("webp"):
        raise MissingCapabilityError(
            f"{path}: this Pillow was built without WebP", "Install it: pip install --force-reinstall Pillow"
        )
    if known[suffix] == "MP4":
        _ffmpeg(path)
    return known[suffix]


def check_size(path: Path, width: int, height: int, *, animated: bool = False) -> None:
    """Raise UsageError if a picture of this size does not fit the format of the file."""
    most = _LARGEST.get(picture_format(path, animated=animated))
    if most is not None and max(width, height) > most:
        raise UsageError(
            f"{path}: {width} x {height} pixels; the format takes at most {most} a side",
            "Use another suffix, or fewer images.",
        )


def save_picture(image: NDArray[np.uint8], path: str | os.PathLike[str]) -> Path:
    """Write an image uint8 [H, W, 3], atomically. PNG and WebP keep every pixel; JPEG has quality 95.

    Raises as :func:`picture_format` and :func:`check_size`.
    """
    path = Path(path)
    kind = picture_format(path)
    check_size(path, image.shape[1], image.shape[0])
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format=kind, **_PICTURE_OPTIONS[kind])
    write_bytes(path, stream.getbuffer())
    return path


def save_animation(frames: Iterable[NDArray[np.uint8]], path: str | os.PathLike[str]) -> Path:
    """Write images uint8 [H, W, 3] of one size as an animation of 25 frames a second, atomically.

    GIF (256 colours a frame, dithered) and WebP (quality 90) repeat without end; MP4 is H.264. Raises as
    :func:`picture_format`, and UsageError for no frames.
    """
    path = Path(path)
    kind = picture_format(path, animated=True)
    queue = iter(frames)
    first = next(queue, None)
    if first is None:
        raise UsageError(f"{path}: an animation needs at least one frame")
    check_size(path, first.shape[1], first.shape[0], animated=True)
    if kind == "MP4":
        with atomic_path(path) as temporary:
            _write_mp4(temporary, chain([first], queue), first.shape[1], first.shape[0])
    else:
        _write_with_pillow(path, kind, first, queue)
    return path


def _write_with_pillow(path: Path, kind: str, first: NDArray[np.uint8], rest: Iterable[NDArray[np.uint8]]) -> None:
    def converted(frame: NDArray[np.uint8]) -> Image.Image:
        image = Image.fromarray(frame)
        if kind == "WEBP":
            return image
        palette = image.quantize(256, method=Image.Quantize.MEDIANCUT)
        return image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)

    options: dict[str, Any] = {"quality": 90} if kind == "WEBP" else {"optimize": False, "disposal": 1}
    stream = io.BytesIO()
    converted(first).save(
        stream, format=kind, save_all=True, append_images=map(converted, rest),
        duration=1000 // FRAMES_PER_SECOND, loop=0, **options,
    )  # fmt: skip
    write_bytes(path, stream.getbuffer())


def _write_mp4(path: Path, frames: Iterable[NDArray[np.uint8]], width: int, height: int) -> None:
    """Encode by H.264 with colours at half resolution, the one form that every player shows, in BT.709."""
    matrix = "bt709"
    command = [
        _ffmpeg(path), "-y", "-v", "error",
        "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(FRAMES_PER_SECOND), "-i", "-",
        "-vf", f"scale=out_color_matrix={matrix}:out_range=tv", "-pix_fmt", "yuv420p",
        "-colorspace", matrix, "-color_primaries", matrix, "-color_trc", matrix,
        "-vcodec", "libx264", "-crf", str(_RATE_FACTOR), "-movflags", "+faststart", "-f", "mp4", os.fspath(path),
    ]  # fmt: skip
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=said)
        with suppress(BrokenPipeError), process:  # it ended early: its exit code and its words say why
            assert process.stdin is not None
            for frame in frames:
                process.stdin.write(frame.tobytes())
        if process.returncode == -signal.SIGXFSZ:  # ended by a limit on the size of files
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), os.fspath(path))
        if process.returncode:
            said.seek(0)
            reason = said.read().decode(errors="replace").strip()
            raise OSError(f"ffmpeg ended with code {process.returncode}: {reason}")


def _ffmpeg(path: Path) -> str:
    """Return the program that writes MP4 files; MissingCapabilityError names the package that brings it."""
    remedy = "Install it: pip install 'dcp-deploy[video]'; or write a .gif or a .webp."
    try:
        import imageio_ffmpeg
    except ImportError as error:
        missing = f"{path}: an MP4 file needs imageio-ffmpeg, which is not installed"
        raise MissingCapabilityError(missing, remedy) from error
    try:
        program: str = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise MissingCapabilityError(f"{path}: imageio-ffmpeg finds no ffmpeg: {error}", remedy) from error
    return program
