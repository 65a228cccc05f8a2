"""Measure a generator of avatars against the data: distances, overlap, and the modes it reaches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..datasets.avatars import RESOLUTION, Factors, avatars
from ..errors import QualityError, UsageError
from ..generators import Generator
from .features import images_to_tensor, load_avatar_reader
from .fid import frechet_distance
from .manifold import prdc
from .modes import mode_coverage, rare_ratios

REFERENCE_SAMPLES = 10_000  # images 0 .. 9999 of avatars seed 0
MIN_SAMPLES = 500  # fewer cannot fill the cells of the mode count
PRECISION_K, COVERAGE_K = 3, 5


class ImageRunner(Protocol):
    """What any exported generator offers: uint8 [B, H, W, 3] or float [B, 3, H, W] in [-1, 1], told by the type."""

    @property
    def z_dim(self) -> int: ...

    @property
    def c_dim(self) -> int: ...

    @property
    def resolution(self) -> int: ...

    def __call__(self, *, z: NDArray[np.float32], psi: NDArray[np.float32]) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Metrics:
    """Quality of one generator.

    ``fid`` >= 0 is in the units of ``features`` ("avatars": the avatar reader's), so not comparable with Inception's.
    ``precision``, ``recall`` at k = 3, ``density``, ``coverage`` at k = 5, against as many real images as samples.
    ``mode_coverage``, ``frequency_error``: see ``modes``. ``rare``: generated over true rate of each rare value.
    """

    fid: float
    precision: float
    recall: float
    density: float
    coverage: float
    mode_coverage: float
    frequency_error: float
    rare: dict[str, float]
    samples: int
    seed: int
    psi: float
    features: str = "avatars"

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


def evaluate(
    model: Generator | ImageRunner,
    *,
    samples: int = 5000,
    seed: int = 0,
    psi: float = 1.0,
    batch: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Metrics:
    """Draw ``samples`` images with constant noise and compare them with the avatars.

    ``model`` is a Generator or anything that runs an exported one. The latents depend on ``seed`` alone, not on
    ``batch``. Images are rounded to 8 bits first, as the data and the shipped models are. ``progress`` is called with
    (samples done, samples in all).

    Raises UsageError for settings or a model that cannot be measured here (64 px, unconditional), QualityError when an
    image holds NaN or infinity.
    """
    if not MIN_SAMPLES <= samples <= REFERENCE_SAMPLES:
        raise UsageError(f"samples is {samples}", f"Choose {MIN_SAMPLES} to {REFERENCE_SAMPLES}.")
    if batch < 1:
        raise UsageError(f"batch is {batch}", "Choose 1 or more.")
    draw, z_dim = _sampler(model)
    device = next(model.parameters()).device if isinstance(model, Generator) else torch.device("cpu")
    latents = torch.randn(samples, z_dim, generator=torch.Generator().manual_seed(seed))
    reading = _Reading(device)
    for start in range(0, samples, batch):
        z = latents[start : start + batch]
        reading.add(draw(z, torch.full((len(z),), psi)))
        if progress:
            progress(start + len(z), samples)
    return _compare(reading, samples=samples, seed=seed, psi=psi)


def evaluate_images(images: NDArray[np.uint8], *, seed: int = 0, psi: float = 1.0) -> Metrics:
    """The same for finished images uint8 [N, 64, 64, 3]. Fresh avatars give the noise floor of every figure."""
    if not MIN_SAMPLES <= len(images) <= REFERENCE_SAMPLES:
        raise UsageError(f"{len(images)} images", f"Bring {MIN_SAMPLES} to {REFERENCE_SAMPLES}.")
    reading = _Reading()
    for start in range(0, len(images), 64):
        reading.add(images_to_tensor(images[start : start + 64]))
    return _compare(reading, samples=len(images), seed=seed, psi=psi)


class _Reading:
    """Features and factors of images, collected batch by batch, and the device that reads them."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = device
        self._reader = load_avatar_reader(str(device))
        self._features: list[NDArray[np.float32]] = []
        self._factors: list[NDArray[np.float32]] = []

    @torch.no_grad()
    def add(self, images: Tensor) -> None:
        """Read images [B, 3, 64, 64] in [-1, 1]."""
        features, factors = self._reader.features_and_factors(images.to(self.device))
        self._features.append(features)
        self._factors.append(factors.table)

    @property
    def features(self) -> NDArray[np.float32]:
        return np.concatenate(self._features)

    @property
    def factors(self) -> Factors:
        return Factors(np.concatenate(self._factors))


@lru_cache(maxsize=1)
def _reference() -> tuple[NDArray[np.float32], Factors]:
    """Features and read factors of the real images, computed once per process (some 15 seconds on one core)."""
    reading = _Reading()
    for start in range(0, REFERENCE_SAMPLES, 100):
        reading.add(images_to_tensor(avatars(np.arange(start, start + 100))))
    return reading.features, reading.factors


def _compare(reading: _Reading, *, samples: int, seed: int, psi: float) -> Metrics:
    real_features, real_factors = _reference()
    features, factors = reading.features, reading.factors
    neighbours = prdc(real_features[:samples], features, PRECISION_K, device=reading.device)
    modes = mode_coverage(real_factors, factors)
    wider = prdc(real_features[:samples], features, COVERAGE_K, device=reading.device)
    return Metrics(
        fid=frechet_distance(real_features, features),
        precision=neighbours.precision,
        recall=neighbours.recall,
        density=wider.density,
        coverage=wider.coverage,
        mode_coverage=modes.coverage,
        frequency_error=modes.frequency_error,
        rare=rare_ratios(factors),
        samples=samples,
        seed=seed,
        psi=psi,
    )


def _sampler(model: Generator | ImageRunner) -> tuple[Callable[[Tensor, Tensor], Tensor], int]:
    """A function (z [B, z_dim], psi [B]) -> images [B, 3, 64, 64] in [-1, 1] of 8-bit precision, and z_dim."""
    shape = model.config if isinstance(model, Generator) else model
    if shape.resolution != RESOLUTION or shape.c_dim != 0:
        kind = "class-conditional" if shape.c_dim else f"{shape.resolution} px"
        raise UsageError(
            f"this model is {kind}; the avatar metrics need an unconditional one at {RESOLUTION} px",
            "Measure models of the demo data only with these metrics.",
        )
    if isinstance(model, Generator):
        device = next(model.parameters()).device

        @torch.no_grad()
        def draw(z: Tensor, psi: Tensor) -> Tensor:
            return _to_8_bit(model(z.to(device), psi=psi.to(device), noise="const").float())

        return draw, model.config.z_dim

    def run(z: Tensor, psi: Tensor) -> Tensor:
        images = model(z=z.numpy(), psi=psi.numpy())
        return images_to_tensor(images) if images.dtype == np.uint8 else _to_8_bit(torch.from_numpy(images).float())

    return run, model.z_dim


def _to_8_bit(images: Tensor) -> Tensor:
    """Clamp images in [-1, 1] and round to the 256 levels that a file holds."""
    if not bool(images.isfinite().all()):
        raise QualityError(
            "the model drew NaN or infinity", "Look at its weights; a distillation that diverged needs a lower rate."
        )
    return ((images.clamp(-1.0, 1.0) + 1.0) * 127.5).round().div(127.5).sub(1.0)
