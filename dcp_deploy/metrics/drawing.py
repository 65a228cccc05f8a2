"""Images to measure, made batch by batch by any model: a Generator, an exported file or an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..datasets.labels import Labels
from ..distributed.joining import gather_rows, on, portable
from ..distributed.team import ALONE, Team
from ..errors import QualityError, UsageError
from ..generators import Generator
from ..progress import Progress
from .features import images_to_tensor


class ImageRunner(Protocol):
    """Interface of exported generators. Returns uint8 [B, H, W, 3] or float [B, 3, H, W] in [-1, 1].

    A class-conditional generator also takes ``c`` [B, c_dim].
    """

    @property
    def z_dim(self) -> int: ...

    @property
    def c_dim(self) -> int: ...

    @property
    def image_size(self) -> tuple[int, int]: ...

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


def latents_for(model: Model, count: int, seed: int, labels: Labels | None = None) -> Latents:
    """Draw ``count`` latents from N(0, I), and classes if the model is class-conditional; fixed by ``seed``.

    The classes are those of images drawn at random from the set that ``labels`` belongs to, as in NVIDIA's metrics; so
    they have its frequencies. Without ``labels`` all classes are equally frequent.
    """
    shape = shape_of(model)
    z = torch.randn(count, shape.z_dim, generator=torch.Generator().manual_seed(seed))
    if not shape.c_dim:
        return Latents(z)
    source = torch.Generator().manual_seed(seed + 1)
    if labels is not None:
        places = torch.randint(len(labels.values), (count,), generator=source)
        return Latents(z, torch.from_numpy(labels.vectors(places.numpy(), shape.c_dim)))
    classes = torch.randint(shape.c_dim, (count,), generator=source)
    return Latents(z, torch.nn.functional.one_hot(classes, shape.c_dim).float())


def draw(
    model: Model,
    latents: Latents,
    *,
    psi: float = 1.0,
    batch: int = 64,
    progress: Progress | None = None,
    team: Team = ALONE,
) -> Iterator[Tensor]:
    """Yield batches of images [B, 3, H, W] in [-1, 1], rounded to 8 bits, made from ``latents`` with constant noise.

    ``progress`` counts images. Each process of ``team`` takes every ``size``-th batch, from its rank on. Raises
    UsageError for a batch below 1, QualityError if an image holds NaN or infinity.
    """
    if batch < 1:
        raise UsageError(f"the batch size is {batch}", "Choose 1 or more.")
    run = _image_function(model)
    for start in range(team.rank * batch, len(latents), team.size * batch):
        part = latents[start : start + batch]
        yield run(part, torch.full((len(part),), psi))
        if progress:
            progress(min(start + team.size * batch, len(latents)), len(latents))


Reader = Callable[[Tensor], NDArray[np.float32]]
"""What a measurement takes of images [B, 3, H, W] in [-1, 1]: numbers [B, D]."""


def read_drawn(
    model: Model,
    latents: Latents,
    reader_on: Callable[[torch.device], Reader],
    *,
    psi: float,
    batch: int,
    progress: Progress | None,
) -> NDArray[np.float32]:
    """Return the numbers [N, D] that a reader takes of the images of ``latents``, drawn as :func:`draw` does.

    In a program on several processes all draw and read a share of a Generator's images; other models run in this
    process alone. ``reader_on`` returns the reader for a device, and is sent to the others.
    """
    if not isinstance(model, Generator):
        read = reader_on(model_device(model))
        images = draw(model, latents, psi=psi, batch=batch, progress=progress)
        return np.concatenate([read(one) for one in images])
    rows = partial(_drawn_rows, portable(model), latents, reader_on, psi, batch)
    return gather_rows(rows, model_device(model), progress).numpy()


def _drawn_rows(
    model: Generator,
    latents: Latents,
    reader_on: Callable[[torch.device], Reader],
    psi: float,
    batch: int,
    device: torch.device,
    team: Team,
    progress: Progress | None = None,
) -> Iterator[Tensor]:
    read = reader_on(device)
    for images in draw(on(model, device), latents, psi=psi, batch=batch, progress=progress, team=team):
        yield torch.from_numpy(read(images))


def shape_of(model: Model) -> Any:
    """Return the object with ``z_dim``, ``c_dim`` and ``image_size`` of a model."""
    return model.config if isinstance(model, Generator) else model


def model_device(model: Model) -> torch.device:
    """Return the device that should read its images: the generator's own, or the CPU for an exported file."""
    return next(model.parameters()).device if isinstance(model, Generator) else torch.device("cpu")


def _image_function(model: Model) -> Callable[[Latents, Tensor], Tensor]:
    """Return the function from latents and psi to images of 8-bit precision."""
    if isinstance(model, Generator):
        device = model_device(model)

        @torch.no_grad()
        def network(latents: Latents, psi: Tensor) -> Tensor:
            c = None if latents.c is None else latents.c.to(device)
            return to_8_bit(model(latents.z.to(device), c, psi=psi.to(device), noise="const").float())

        return network

    def run(latents: Latents, psi: Tensor) -> Tensor:
        labels = {} if latents.c is None else {"c": latents.c.numpy()}
        images = model(z=latents.z.numpy(), psi=psi.numpy(), **labels)
        return images_to_tensor(images) if images.dtype == np.uint8 else to_8_bit(torch.from_numpy(images).float())

    return run


def to_8_bit(images: Tensor) -> Tensor:
    """Clamp images to [-1, 1] and round them to 256 levels. Raises QualityError for NaN or infinity."""
    if not bool(images.isfinite().all()):
        remedy = "Check its weights. If its distillation diverged, distil again with a lower learning rate."
        raise QualityError("the model generated NaN or infinity", remedy)
    return to_bytes(images).float().div_(127.5).sub_(1.0)


def to_bytes(images: Tensor) -> Tensor:
    """Convert images [B, 3, H, W] in [-1, 1] to uint8 of the same shape."""
    return ((images.clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)
