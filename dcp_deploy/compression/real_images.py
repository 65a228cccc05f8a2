"""Batches of real images for the discriminator, by position: the same step always sees the same images."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import UsageError
from .randomness import stream


@runtime_checkable
class ImageSequence(Protocol):
    """A finite data set: ``images[i]`` is uint8 [R, R, 3]."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


ImageSource = ImageSequence | Callable[[NDArray[np.int64]], NDArray[np.uint8]]
"""A finite data set, visited in a new order each epoch, or an endless one: indices [N] to uint8 [N, R, R, 3]."""


def real_batch(source: ImageSource, position: int, count: int, *, seed: int, resolution: int, mirror: bool) -> Tensor:
    """Images ``position`` to ``position + count`` of the stream, float [count, 3, R, R] in [-1, 1].

    Raises UsageError when the images are not uint8 of that resolution.
    """
    indices = np.arange(position, position + count, dtype=np.int64)
    if isinstance(source, ImageSequence):
        if not len(source):
            raise UsageError("the data set has no images", "leave it out to train against the teacher's own samples")
        images = np.stack([np.asarray(source[_shuffled(int(i), len(source), seed)]) for i in indices])
    else:
        images = np.asarray(source(indices))
    if images.dtype != np.uint8 or images.shape != (count, resolution, resolution, 3):
        raise UsageError(
            f"real images must be uint8 [{count}, {resolution}, {resolution}, 3], got {images.dtype} "
            f"{list(images.shape)}",
            f"resize the data set to the generator's {resolution} px",
        )
    batch = torch.from_numpy(images.copy()).permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1
    if mirror:
        flips = torch.rand(count, generator=stream(seed, "mirror", position)) < 0.5
        batch = torch.where(flips[:, None, None, None], batch.flip(3), batch)
    return batch


def _shuffled(position: int, length: int, seed: int) -> int:
    """Index into a data set of ``length`` at a position of the endless stream of its shuffled epochs."""
    epoch, offset = divmod(position, length)
    return int(_permutation(length, seed, epoch)[offset])


@lru_cache(maxsize=2)  # a batch may reach into the next epoch
def _permutation(length: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(length, generator=stream(seed, "epoch", epoch))
