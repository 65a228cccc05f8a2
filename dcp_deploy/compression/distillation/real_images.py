"""Batches of real images for the discriminator, by position: the same step always gets the same images."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...datasets.images import ImageSet
from ...errors import UsageError
from ...generators.latents import stream
from ...sizes import Resolution, as_size, pixels


@runtime_checkable
class ImageSequence(Protocol):
    """A finite data set: ``images[i]`` is uint8 [H, W, 3]. An ImageSet also has labels, and decodes in threads."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


ImageSource = ImageSequence | Callable[[NDArray[np.int64]], NDArray[np.uint8]]
"""A finite data set, visited in a new order each epoch, or an endless one: indices [N] to uint8 [N, H, W, 3]."""


def check_labels(source: ImageSource, c_dim: int) -> None:
    """Raise UsageError unless ``source`` has labels [c_dim], which a class-conditional discriminator needs."""
    found = source.c_dim if isinstance(source, ImageSet) else 0
    if c_dim and found != c_dim:
        raise UsageError(
            f"the generator is conditional on {c_dim} classes, and the real images have labels of length {found}",
            f"Open them with c_dim={c_dim}, or leave them out to train against the teacher's own samples.",
        )


def real_batch(
    source: ImageSource,
    position: int,
    count: int,
    *,
    seed: int,
    resolution: Resolution,
    mirror: bool,
    part: slice = slice(None),
) -> tuple[Tensor, Tensor | None]:
    """Return images ``position`` to ``position + count`` of the endless stream, and their labels.

    Images are float [count, 3, H, W] in [-1, 1], labels float [count, c_dim], or None for a source without. ``part``
    selects some of them. Raises UsageError when the images are not uint8 of that resolution.
    """
    indices = np.arange(position, position + count, dtype=np.int64)[part]
    images, labels = _read(source, indices, count, seed)
    height, width = as_size(resolution)
    if images.dtype != np.uint8 or images.shape != (len(indices), height, width, 3):
        raise UsageError(
            f"real images must be uint8 [{len(indices)}, {height}, {width}, 3], got {images.dtype} "
            f"{list(images.shape)}",
            f"Resize the data set to the generator's {pixels((height, width))}.",
        )
    batch = torch.from_numpy(images.copy()).permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1
    if mirror:
        flips = torch.rand(count, generator=stream(seed, "mirror", position))[part] < 0.5
        batch = torch.where(flips[:, None, None, None], batch.flip(3), batch)
    return batch, labels


def _read(source: ImageSource, indices: NDArray[np.int64], count: int, seed: int) -> tuple[NDArray[Any], Tensor | None]:
    if not isinstance(source, ImageSequence):
        return np.asarray(source(indices)), None
    if not len(source):
        raise UsageError("the data set has no images", "Leave it out to train against the teacher's own samples.")
    if not isinstance(source, ImageSet):
        return np.stack([np.asarray(source[index]) for index in _shuffled(indices, len(source), seed)]), None
    following = _shuffled(indices + count, len(source), seed)
    images, labels = zip(*source.samples(_shuffled(indices, len(source), seed), then=following), strict=True)
    return np.stack(images), torch.from_numpy(np.stack(labels)) if source.labels else None


def _shuffled(positions: NDArray[np.int64], length: int, seed: int) -> list[int]:
    """Map positions of the endless stream of shuffled epochs to indices into a data set of ``length``."""
    places = (divmod(int(position), length) for position in positions)
    return [int(_permutation(length, seed, epoch)[offset]) for epoch, offset in places]


@lru_cache(maxsize=2)  # a batch may reach into the next epoch
def _permutation(length: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(length, generator=stream(seed, "epoch", epoch))
