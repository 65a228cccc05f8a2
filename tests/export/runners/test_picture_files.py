"""Picture and animation files, read back with Pillow and with ffmpeg's own decoder."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from dcp_deploy.errors import MissingCapabilityError, UsageError
from dcp_deploy.export.runners import picture_files
from dcp_deploy.export.runners.picture_files import check_size, picture_format, save_animation, save_picture

SIZE = (32, 48)  # height, width


def frame(shift: float) -> NDArray[np.uint8]:
    """Smooth colours, as a photograph has them, that move with ``shift``."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] / 48
    waves = [np.sin(3 * (x + shift)), np.cos(2 * y + shift), np.sin(x + y)]
    return (127.5 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


def frames(count: int) -> Iterator[NDArray[np.uint8]]:
    return (frame(index / count) for index in range(count))


def decoded(path: Path) -> tuple[list[NDArray[np.uint8]], float]:
    """Return the frames of a file and their number in a second."""
    if path.suffix != ".mp4":
        with Image.open(path) as picture:
            found = [np.asarray(one.convert("RGB")) for one in ImageSequence.Iterator(picture)]
            return found, 1000 / picture.info["duration"]
    program = pytest.importorskip("imageio_ffmpeg", reason="the extra 'video' is not installed").get_ffmpeg_exe()
    command = [program, "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    said = re.search(r"Video: h264.*?yuv420p\(tv, bt709.*?, (\d+)x(\d+)\D.*? ([\d.]+) fps", done.stderr.decode())
    assert said is not None
    width, height = int(said[1]), int(said[2])
    return list(np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)), float(said[3])


@pytest.mark.parametrize(
    ("name", "kind", "most"),
    [("a.png", "PNG", 0), ("a.PNG", "PNG", 0), ("a.webp", "WEBP", 0), ("a.jpg", "JPEG", 8), ("a.jpeg", "JPEG", 8)],
)  # steps of 8 bits; JPEG at quality 95 loses a few
def test_a_picture_is_of_the_format_that_its_suffix_names(tmp_path: Path, name: str, kind: str, most: int) -> None:
    with Image.open(save_picture(frame(0), tmp_path / name)) as picture:
        assert picture.format == kind
        assert np.abs(np.asarray(picture.convert("RGB")).astype(int) - frame(0)).max() <= most
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("suffix", "mean"), [(".gif", 4.0), (".webp", 3.0), (".mp4", 3.0)]
)  # steps of 8 bits on average: 256 colours; quality 90; colours at half resolution
def test_an_animation_plays_every_frame(tmp_path: Path, suffix: str, mean: float) -> None:
    if suffix == ".mp4":
        pytest.importorskip("imageio_ffmpeg", reason="the extra 'video' is not installed")
    path = save_animation(frames(30), tmp_path / f"a{suffix}")
    found, rate = decoded(path)
    assert (len(found), found[0].shape, rate) == (30, (*SIZE, 3), 25)
    distances = [np.abs(one.astype(int) - wanted).mean() for one, wanted in zip(found, frames(30), strict=True)]
    assert max(distances) < mean
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_gif_and_webp_repeat_without_end(tmp_path: Path, suffix: str) -> None:
    with Image.open(save_animation(frames(3), tmp_path / f"a{suffix}")) as picture:
        assert picture.info["loop"] == 0


@pytest.mark.parametrize(
    ("name", "animated", "known"),
    [
        ("a.bmp", False, "known: .png, .jpg, .jpeg, .webp"),
        ("a.gif", False, "known: .png, .jpg, .jpeg, .webp"),
        ("a", False, "Name it a.png"),
        ("a.png", True, "known: .gif, .webp, .mp4"),
        ("a.avi", True, "Name it a.gif"),
    ],
)
def test_any_other_suffix_is_refused_with_the_known_ones(name: str, animated: bool, known: str) -> None:
    with pytest.raises(UsageError) as caught:
        picture_format(Path(name), animated=animated)
    assert name in caught.value.message and known in caught.value.remedy


def test_a_size_beyond_the_format_is_refused() -> None:
    check_size(Path("a.png"), 100_000, 16)
    check_size(Path("a.webp"), 16_383, 16)
    with pytest.raises(UsageError, match="16384 x 16 pixels; the format takes at most 16383"):
        check_size(Path("a.webp"), 16_384, 16)


def test_no_frames_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one frame"):
        save_animation([], tmp_path / "a.gif")


def test_without_the_extra_an_mp4_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(MissingCapabilityError, match="imageio-ffmpeg, which is not installed") as caught:
        picture_format(Path("a.mp4"), animated=True)
    assert "pip install 'dcp-deploy[video]'" in caught.value.remedy


def test_a_pillow_without_webp_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_files.features, "check", lambda name: False)
    with pytest.raises(MissingCapabilityError, match="without WebP"):
        picture_format(Path("a.webp"))


def test_a_failed_ffmpeg_leaves_no_file_and_its_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\nexec 0<&-\necho No space left on device >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(picture_files, "_ffmpeg", lambda path: str(program))
    with pytest.raises(OSError, match="ended with code 3: No space left on device"):
        save_animation(frames(200), tmp_path / "out" / "a.mp4")  # more than a pipe holds
    assert not (tmp_path / "out").exists()


def test_an_error_while_drawing_leaves_no_animation(tmp_path: Path) -> None:
    def failing() -> Iterator[NDArray[np.uint8]]:
        yield frame(0)
        raise KeyboardInterrupt

    for suffix in (".gif", ".webp", ".mp4"):
        if suffix == ".mp4":
            pytest.importorskip("imageio_ffmpeg", reason="the extra 'video' is not installed")
        with pytest.raises(KeyboardInterrupt):
            save_animation(failing(), tmp_path / f"a{suffix}")
    assert not list(tmp_path.iterdir())
