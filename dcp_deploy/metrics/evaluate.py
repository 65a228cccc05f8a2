"""Measure a generator of avatars against the data: distances, overlap, and the modes it reaches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..datasets.avatars import avatars
from ..datasets.canvas import RESOLUTION
from ..datasets.factors import Factors
from ..errors import UsageError
from .distances import Distances, feature_distances
from .drawing import Model, draw, latents_for, model_device, shape_of
from .features import images_to_tensor, load_avatar_reader
from .mode_coverage import ModeRow, mode_coverage, mode_table, rare_ratios

REFERENCE_SAMPLES = 10_000  # images 0 .. 9999 of avatars seed 0
MIN_SAMPLES = 500  # fewer cannot fill the cells of the mode count


@dataclass(frozen=True)
class Metrics(Distances):
    """Quality of one generator of avatars.

    The distances are in the units of ``features`` ("avatars": the avatar reader's), so not comparable with Inception's.
    ``mode_coverage``, ``frequency_error``: see ``modes``. ``rare``: generated over true rate of each rare value.
    ``modes``: that of every value and bin of every factor.
    """

    mode_coverage: float
    frequency_error: float
    rare: dict[str, float]
    modes: tuple[ModeRow, ...]
    samples: int
    seed: int
    psi: float
    features: str = "avatars"

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {**asdict(self), "modes": [asdict(row) for row in self.modes]}


def evaluate(
    model: Model,
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
    refuse_unreadable(model)
    reading = _Reading(model_device(model))
    for images in draw(model, latents_for(model, samples, seed), psi=psi, batch=batch, progress=progress):
        reading.add(images)
    return _compare(reading, samples=samples, seed=seed, psi=psi)


def refuse_unreadable(model: Model) -> None:
    """Raise UsageError unless the avatar reader can read what the model draws."""
    shape = shape_of(model)
    if shape.resolution != RESOLUTION or shape.c_dim != 0:
        kind = "class-conditional" if shape.c_dim else f"{shape.resolution} px"
        raise UsageError(
            f"this model is {kind}; the avatar metrics need an unconditional one at {RESOLUTION} px",
            "Measure models of the demo data only with these metrics; --data PATH compares with images of yours.",
        )


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
    factors = reading.factors
    distances = feature_distances(real_features, reading.features, device=reading.device)
    modes = mode_coverage(real_factors, factors)
    return Metrics(
        **asdict(distances),
        mode_coverage=modes.coverage,
        frequency_error=modes.frequency_error,
        rare=rare_ratios(factors),
        modes=mode_table(real_factors, factors),
        samples=samples,
        seed=seed,
        psi=psi,
    )
