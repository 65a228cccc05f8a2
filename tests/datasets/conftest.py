"""Sets of images in every kind of container, all with the same random pictures."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dcp_deploy.datasets.images import ImageSet

Files = Callable[..., dict[str, bytes]]
New = Callable[..., Path]
Pictures = Callable[..., NDArray[np.uint8]]
ImageFile = Callable[..., bytes]

RESOLUTION = 8


def all_of(found: ImageSet) -> NDArray[np.uint8]:
    """Return every image of a set, [N, R, R, 3]."""
    return np.stack([found[index] for index in range(len(found))])


def encoded(pixels: NDArray[Any], suffix: str = ".png") -> bytes:
    """Return the bytes of an image file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format={".jpg": "JPEG"}.get(suffix, suffix[1:].upper()), quality=95)
    return stream.getvalue()


def make_pictures(count: int, resolution: int = RESOLUTION) -> NDArray[np.uint8]:
    """Return random pixels, uint8 [count, R, R, 3]."""
    return np.random.default_rng(count).integers(0, 256, (count, resolution, resolution, 3), np.uint8)


def nvidia_name(index: int) -> str:
    """Return the name that NVIDIA's tool gives an image."""
    return f"{index // 1000:05}/img{index:08}.png"


def make_files(count: int, labels: Sequence[Any] | None = None) -> dict[str, bytes]:
    """Return names and contents as NVIDIA's tool writes them; ``labels`` None becomes null in dataset.json."""
    files = {nvidia_name(index): encoded(image) for index, image in enumerate(make_pictures(count))}
    pairs = None if labels is None else [[nvidia_name(index), label] for index, label in enumerate(labels)]
    return {**files, "dataset.json": json.dumps({"labels": pairs}).encode()}


def write_folder(path: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def write_zip(path: Path, files: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_lmdb(path: Path, values: Mapping[bytes, bytes], **options: Any) -> Path:
    with lmdb.open(str(path), map_size=2**26, **options) as database, database.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key, value)
    return path


@pytest.fixture
def image_file() -> Callable[..., bytes]:
    """Call ``image_file(pixels, suffix)`` for the bytes of an image, see :func:`encoded`."""
    return encoded


@pytest.fixture
def pictures() -> Callable[..., NDArray[np.uint8]]:
    """Call ``pictures(count, resolution)`` for the pixels in the sets below."""
    return make_pictures


@pytest.fixture
def nvidia_files() -> Callable[..., dict[str, bytes]]:
    """Call ``nvidia_files(count, labels)``, see :func:`make_files`."""
    return make_files


@pytest.fixture
def new_folder(tmp_path: Path) -> Callable[..., Path]:
    """Call ``new_folder(files, name)`` to write files into a folder."""
    return lambda files, name="images": write_folder(tmp_path / name, files)


@pytest.fixture
def new_zip(tmp_path: Path) -> Callable[..., Path]:
    """Call ``new_zip(files, name, compression)`` to write a zip file."""
    return lambda files, name="images.zip", compression=zipfile.ZIP_STORED: write_zip(
        tmp_path / name, files, compression
    )


@pytest.fixture
def new_lmdb(tmp_path: Path) -> Callable[..., Path]:
    """Call ``new_lmdb(values, name, **options of lmdb.open)`` to write a database with the LMDB library."""
    return lambda values, name="lmdb", **options: write_lmdb(tmp_path / name, values, **options)
