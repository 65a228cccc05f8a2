"""Images to measure, drawn batch by batch from anything that draws: a Generator, an exported file, an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import QualityError, UsageError
from ..generators import Generator
from ..progress import Progress
from .features import images_to_tensor


class ImageRunner(Protocol):
    """What any exported generator offers: uint8 [B, H, W, 3] or float [B, 3, H, W] in [-1, 1], told by the type.

    A class-conditional one is also given ``c`` [B, c_dim].
    """

    @property
    def z_dim(self) -> int: ...

    @property
    def c_dim(self) -> int: ...

    @property
    def resolution(self) -> int: ...

    def __call__(self, *, z: NDArray[np.float32], psi: NDArray[np.float32]) -> NDArray[Any]: ...


Model = Generator | ImageRunner


@dataclass(frozen=True)
class Latents:
    """``z`` [N, z_dim] and, for a class-conditional model, one-hot ``c`` [N, c_dim]."""

    z: Tensor
    c: Tensor | None = None

    def __len__(self) -> int:
        return len(self.z)

    def __getitem__(self, rows: slice) -> Latents:
        return Latents(self.z[rows], None if self.c is None else self.c[rows])


def latents_for(model: Model, count: int, seed: int) -> Latents:
    """``count`` latents from N(0, I), and classes drawn evenly where the model wants one; by ``seed`` alone."""
    shape = shape_of(model)
    z = torch.randn(count, shape.z_dim, generator=torch.Generator().manual_seed(seed))
    if not shape.c_dim:
        return Latents(z)
    classes = torch.randint(shape.c_dim, (count,), generator=torch.Generator().manual_seed(seed + 1))
    return Latents(z, torch.nn.functional.one_hot(classes, shape.c_dim).float())


def draw(
    model: Model, latents: Latents, *, psi: float = 1.0, batch: int = 64, progress: Progress | None = None
) -> Iterator[Tensor]:
    """Images [B, 3, R, R] in [-1, 1] of 8-bit precision, with constant noise, for ``latents`` in batches.

    ``progress`` is called with (images done, images in all). Raises UsageError for a batch below 1, QualityError when
    an image holds NaN or infinity.
    """
    if batch < 1:
        raise UsageError(f"batch is {batch}", "Choose 1 or more.")
    run = _drawer(model)
    for start in range(0, len(latents), batch):
        part = latents[start : start + batch]
        yield run(part, torch.full((len(part),), psi))
        if progress:
            progress(start + len(part), len(latents))


def shape_of(model: Model) -> Any:
    """What tells ``z_dim``, ``c_dim`` and ``resolution`` of a model."""
    return model.config if isinstance(model, Generator) else model


def model_device(model: Model) -> torch.device:
    """Where its images had best be read: the generator's own device, the CPU for an exported file's."""
    return next(model.parameters()).device if isinstance(model, Generator) else torch.device("cpu")


def _drawer(model: Model) -> Callable[[Latents, Tensor], Tensor]:
    if isinstance(model, Generator):
        device = model_device(model)

        @torch.no_grad()
        def network(latents: Latents, psi: Tensor) -> Tensor:
            c = None if latents.c is None else latents.c.to(device)
            return to_8_bit(model(latents.z.to(device), c, psi=psi.to(device), noise="const").float())

        return network

    def run(latents: Latents, psi: Tensor) -> Tensor:
        more = {} if latents.c is None else {"c": latents.c.numpy()}
        images = model(z=latents.z.numpy(), psi=psi.numpy(), **more)
        return images_to_tensor(images) if images.dtype == np.uint8 else to_8_bit(torch.from_numpy(images).float())

    return run


def to_8_bit(images: Tensor) -> Tensor:
    """Clamp images in [-1, 1] and round to the 256 levels that a file holds. QualityError for NaN or infinity."""
    if not bool(images.isfinite().all()):
        raise QualityError(
            "the model drew NaN or infinity", "Look at its weights; a distillation that diverged needs a lower rate."
        )
    return to_bytes(images).float().div_(127.5).sub_(1.0)


def to_bytes(images: Tensor) -> Tensor:
    """Images [B, 3, R, R] in [-1, 1] as uint8 of the same shape."""
    return ((images.clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)
