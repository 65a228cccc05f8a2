"""Images from seeds: what a seed means, and grids of images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import QualityError, UsageError
from .picture_files import save_picture
from .runner import Runner, classes_of, latents_of

COLUMNS = 8
BATCH = 8


def draw(runner: Runner, seeds: Sequence[int], *, psi: float = 1.0, label: int | None = None) -> NDArray[np.uint8]:
    """Generate one image per seed, uint8 [N, H, W, 3], with constant noise and truncation ``psi``.

    A seed's latent is numpy's ``RandomState(seed).randn(1, z_dim)``, as NVIDIA's scripts draw it; a conditional model
    uses class ``label``, by default ``seed`` modulo the number of classes. Raises QualityError if an image holds NaN or
    infinity.
    """
    batches = []
    for start in range(0, len(seeds), BATCH):
        chosen = seeds[start : start + BATCH]
        classes = chosen if label is None else [label] * len(chosen)
        images = runner(z=latents_of(chosen, runner.z_dim), psi=psi, c=classes_of(classes, runner.c_dim))
        batches.append(as_uint8(images))
    return np.concatenate(batches)


def as_uint8(images: NDArray[Any]) -> NDArray[np.uint8]:
    """Return uint8 unchanged; convert float [N, 3, H, W] in [-1, 1] to uint8 [N, H, W, 3].

    The formula is clip(127.5 x + 128, 0, 255), truncated. Raises QualityError for NaN or infinity.
    """
    if images.dtype == np.uint8:
        return images
    if not np.isfinite(images).all():
        raise QualityError("the model generated NaN or infinity", "Check its weights, or the file it came from.")
    return np.clip(images * 127.5 + 128.0, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def grid(images: NDArray[np.uint8], columns: int = COLUMNS) -> NDArray[np.uint8]:
    """Tile images [N, H, W, 3] row by row to [rows H, columns W, 3], without padding; missing tiles are black."""
    count, height, width, _ = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    tiles = np.zeros((rows * columns, height, width, 3), dtype=np.uint8)
    tiles[:count] = images
    tiled = tiles.reshape(rows, columns, height, width, 3).transpose(0, 2, 1, 3, 4)
    return tiled.reshape(rows * height, columns * width, 3)


def sample_grid(runner: Runner, path: str | os.PathLike[str], *, seeds: Sequence[int]) -> Path:
    """Write a picture of one image per seed, in rows of eight. Raises UsageError without seeds."""
    if not seeds:
        raise UsageError("a grid needs at least one seed")
    return save_picture(grid(draw(runner, seeds)), path)
