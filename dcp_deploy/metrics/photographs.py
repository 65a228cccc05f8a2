"""Measure a generator against real images: their features, kept in a cache, and the distances to them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from ..datasets.images import ImageSet
from ..errors import InputError, UsageError
from ..files import atomic_path
from ..progress import Progress
from .distances import Distances, feature_distances
from .drawing import Model, draw, latents_for, to_bytes

FEWEST = 10  # images: what the nearest-neighbour figures need, and no more meaning than that
_BATCH = 32
_FORMAT = 1  # of the cache; another number makes every old entry unknown


class Extractor(Protocol):
    """A network whose features are compared. ``key`` names everything that they depend on but the images."""

    @property
    def name(self) -> str: ...

    @property
    def key(self) -> str: ...

    @property
    def device(self) -> torch.device: ...

    def __call__(self, images: Tensor) -> NDArray[np.float32]:
        """uint8 [B, 3, R, R] to [B, D]."""
        ...


@dataclass(frozen=True)
class DataMetrics(Distances):
    """Quality against real images. ``reals``: how many of them; ``cached``: whether their features lay in the cache."""

    samples: int
    reals: int
    seed: int
    psi: float
    features: str
    cached: bool

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


@dataclass(frozen=True)
class RealFeatures:
    """Features [N, D] of real images in a random order, and whether they came from the cache."""

    features: NDArray[np.float32]
    cached: bool


def evaluate_against(
    model: Model,
    real: RealFeatures,
    extractor: Extractor,
    *,
    samples: int,
    seed: int = 0,
    psi: float = 1.0,
    batch: int = _BATCH,
    progress: Progress | None = None,
) -> DataMetrics:
    """Draw ``samples`` images of ``model`` as :func:`~.evaluate.evaluate` does and compare them with real ones.

    Images are rounded to 8 bits first; classes are drawn evenly, whatever their shares in the data. Published FIDs are
    of 50,000 samples against 50,000 real images or more; fewer give a larger FID, so compare at equal counts only.
    Raises UsageError for fewer than 10 samples or real images.
    """
    if min(samples, len(real.features)) < FEWEST:
        raise UsageError(
            f"{samples} samples against {len(real.features)} real images", f"Measure {FEWEST} of each or more."
        )
    latents = latents_for(model, samples, seed)
    fake = [extractor(to_bytes(images)) for images in draw(model, latents, psi=psi, batch=batch, progress=progress)]
    distances = feature_distances(real.features, np.concatenate(fake), device=extractor.device)
    return DataMetrics(
        **asdict(distances),
        samples=samples,
        reals=len(real.features),
        seed=seed,
        psi=psi,
        features=extractor.name,
        cached=real.cached,
    )


def real_features(
    images: ImageSet, extractor: Extractor, *, count: int, cache: Path, progress: Progress | None = None
) -> RealFeatures:
    """Features of ``count`` images (of all, where there are fewer), drawn without replacement in a fixed random order.

    They are kept under ``cache`` by the content of the set, how it is resized, the resolution, the count and the
    extractor; an entry that is damaged is made again. Raises what the image set does, InputError when the cache cannot
    be written.
    """
    count = min(count, len(images))
    path = cache / f"{cache_key(images, extractor, count)}.safetensors"
    there = _read(path, count)
    if there is not None:
        return RealFeatures(there, cached=True)
    order = np.random.default_rng(0).permutation(len(images))[:count].tolist()
    found = []
    for start in range(0, count, _BATCH):
        stop = start + _BATCH
        samples = images.samples(order[start:stop], then=order[stop : stop + _BATCH])
        batch = torch.from_numpy(np.stack([sample.image for sample in samples])).permute(0, 3, 1, 2)
        found.append(extractor(batch.contiguous()))
        if progress:
            progress(min(stop, count), count)
    features = np.concatenate(found)
    try:
        with atomic_path(path) as temporary:
            save_file({"features": features}, temporary, metadata={"made_of": json.dumps(made_of(images, extractor))})
    except OSError as error:
        raise InputError(
            f"the features of the real images cannot be kept in {cache}: {error.strerror or error}",
            "Free some space, or let DCP_DEPLOY_CACHE name another folder.",
        ) from error
    return RealFeatures(features, cached=False)


def made_of(images: ImageSet, extractor: Extractor) -> dict[str, Any]:
    """What the features depend on beside the count."""
    return {"format": _FORMAT, "data": images.identity, "resolution": images.resolution, "extractor": extractor.key}


def cache_key(images: ImageSet, extractor: Extractor, count: int) -> str:
    """The name of the entry: a hash of all that its content depends on."""
    text = json.dumps({**made_of(images, extractor), "count": count}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _read(path: Path, count: int) -> NDArray[np.float32] | None:
    """The features that the entry holds; None when it is not there or not whole."""
    try:
        features = load_file(path)["features"]
    except (OSError, SafetensorError, KeyError):
        return None
    whole = features.ndim == 2 and len(features) == count and features.dtype == np.float32
    return features if whole and bool(np.isfinite(features).all()) else None
