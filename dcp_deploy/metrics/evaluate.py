"""Measure a generator of avatars against the data: distances, overlap and mode coverage."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..datasets.canvas import RESOLUTION
from ..datasets.factors import FACTORS, Factors
from ..datasets.portrait import avatars
from ..errors import UsageError
from ..progress import Progress
from ..sizes import pixels
from .distances import Distances, feature_distances
from .drawing import Model, Reader, latents_for, model_device, read_drawn, shape_of
from .features import AvatarReader, images_to_tensor, load_avatar_reader
from .mode_coverage import ModeRow, mode_coverage, mode_table, rare_ratios

REFERENCE_SAMPLES = 10_000  # real images: avatars 0 to 9999 of seed 0
MIN_SAMPLES = 500  # fewer cannot fill the cells of mode coverage


@dataclass(frozen=True)
class Metrics(Distances):
    """Quality of one generator of avatars.

    The distances are in the units of ``features`` ("avatars": the avatar reader's), so not comparable with Inception's.
    ``mode_coverage`` and ``frequency_error`` are in [0, 1]. ``rare``: generated over true rate of each rare value.
    ``modes``: rates of every value and bin of every factor.
    """

    mode_coverage: float
    frequency_error: float
    rare: dict[str, float]
    modes: tuple[ModeRow, ...]
    samples: int
    seed: int
    psi: float
    features: str = "avatars"


@dataclass(frozen=True)
class Readings:
    """What the avatar reader finds in generated images: ``features`` [N, 96] and factors. ``device`` computed them."""

    features: NDArray[np.float32]
    factors: Factors
    device: torch.device
    seed: int
    psi: float

    def compare(self) -> Metrics:
        """Compare the images with the avatars."""
        return _compare(self.features, self.factors, self.device, seed=self.seed, psi=self.psi)


def evaluate(
    model: Model,
    *,
    samples: int = 5000,
    seed: int = 0,
    psi: float = 1.0,
    batch: int = 64,
    progress: Progress | None = None,
) -> Metrics:
    """Generate ``samples`` images with constant noise and compare them with the avatars.

    ``model`` is a Generator or anything that runs an exported one. The latents depend on ``seed`` alone, not on
    ``batch``. Images are rounded to 8 bits first, as the data and the outputs of exported models are. ``progress``
    counts images.

    Raises UsageError for wrong settings or a model that is not unconditional at 64 px, QualityError if an image holds
    NaN or infinity.
    """
    return read_images(model, samples=samples, seed=seed, psi=psi, batch=batch, progress=progress).compare()


def read_images(
    model: Model,
    *,
    samples: int = 5000,
    seed: int = 0,
    psi: float = 1.0,
    batch: int = 64,
    progress: Progress | None = None,
) -> Readings:
    """Generate images and read them, without a comparison. Arguments and errors are those of :func:`evaluate`."""
    if not MIN_SAMPLES <= samples <= REFERENCE_SAMPLES:
        few = "too few to meet each mode of the demo's images"
        many = f"more than the {REFERENCE_SAMPLES:,} images of the demo that they are compared with"
        raise UsageError(
            f"{samples} samples are {few if samples < MIN_SAMPLES else many}",
            f"Give {MIN_SAMPLES} to {REFERENCE_SAMPLES}.",
        )
    refuse_unreadable(model)
    rows = read_drawn(model, latents_for(model, samples, seed), _reader_on, psi=psi, batch=batch, progress=progress)
    return Readings(*_split(rows), model_device(model), seed, psi)


def refuse_unreadable(model: Model) -> None:
    """Raise UsageError unless the avatar reader can read the images of the model."""
    shape = shape_of(model)
    if shape.image_size != (RESOLUTION, RESOLUTION) or shape.c_dim != 0:
        kind = "class-conditional" if shape.c_dim else pixels(shape.image_size)
        raise UsageError(
            f"this model is {kind}; the avatar metrics need an unconditional one at {RESOLUTION} px",
            "Give --data PATH to compare the model with images of your own.",
        )


def evaluate_images(images: NDArray[np.uint8], *, seed: int = 0, psi: float = 1.0) -> Metrics:
    """Measure finished images, uint8 [N, 64, 64, 3]. Fresh avatars give the noise floor of every figure."""
    if not MIN_SAMPLES <= len(images) <= REFERENCE_SAMPLES:
        few = "few" if len(images) < MIN_SAMPLES else "many"
        raise UsageError(
            f"{len(images)} images are too {few} to measure", f"Give {MIN_SAMPLES} to {REFERENCE_SAMPLES}."
        )
    batches = (images_to_tensor(images[start : start + 64]) for start in range(0, len(images), 64))
    return _compare(*_read(batches), "cpu", seed=seed, psi=psi)


def _read(batches: Iterable[Tensor], device: torch.device | str = "cpu") -> tuple[NDArray[np.float32], Factors]:
    """Return features and read factors of batches of images [B, 3, 64, 64] in [-1, 1]."""
    read = _reader_on(torch.device(device))
    return _split(np.concatenate([read(images) for images in batches]))


def _reader_on(device: torch.device) -> Reader:
    """Return the function from images to the avatar reader's features and factors, side by side."""
    return partial(_features_and_factors, load_avatar_reader(str(device)), device)


def _features_and_factors(reader: AvatarReader, device: torch.device, images: Tensor) -> NDArray[np.float32]:
    features, factors = reader.features_and_factors(images.to(device))
    return np.concatenate([features, factors.table], axis=1)


def _split(rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], Factors]:
    """Return the features and the factors of rows that hold both."""
    features, table = np.split(rows, [rows.shape[1] - len(FACTORS)], axis=1)
    return np.ascontiguousarray(features), Factors(np.ascontiguousarray(table))


@lru_cache(maxsize=1)
def _reference() -> tuple[NDArray[np.float32], Factors]:
    """Read the real images once per process, which takes about 15 seconds on one core."""
    return _read(images_to_tensor(avatars(np.arange(start, start + 100))) for start in range(0, REFERENCE_SAMPLES, 100))


def _compare(
    features: NDArray[np.float32], factors: Factors, device: torch.device | str, *, seed: int, psi: float
) -> Metrics:
    real_features, real_factors = _reference()
    distances = feature_distances(real_features, features, device=device)
    modes = mode_coverage(real_factors, factors)
    return Metrics(
        **asdict(distances),
        mode_coverage=modes.coverage,
        frequency_error=modes.frequency_error,
        rare=rare_ratios(factors),
        modes=mode_table(real_factors, factors),
        samples=len(features),
        seed=seed,
        psi=psi,
    )
