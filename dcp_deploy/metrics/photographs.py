"""Measure a generator against real images, whose features are cached."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ..datasets.images import ImageSet
from ..errors import InputError, UsageError
from ..files import atomic_path
from ..progress import Progress
from .distances import Distances, feature_distances
from .drawing import Model, draw, latents_for, to_bytes
from .published import Inception

FEWEST = 10  # images that the k-nearest-neighbour figures need; far too few for meaningful figures
_BATCH = 32
_FORMAT = 1  # format of the cache; a new number invalidates all entries


@dataclass(frozen=True)
class DataMetrics(Distances):
    """Quality against real images. ``reals``: their number; ``cached``: whether their features were in the cache."""

    samples: int
    reals: int
    seed: int
    psi: float
    features: str
    cached: bool


@dataclass(frozen=True)
class RealFeatures:
    """Features [N, D] of real images in random order, and whether they came from the cache."""

    features: NDArray[np.float32]
    cached: bool


def evaluate_against(
    model: Model,
    real: RealFeatures,
    extractor: Inception,
    *,
    samples: int,
    seed: int = 0,
    psi: float = 1.0,
    batch: int = _BATCH,
    progress: Progress | None = None,
) -> DataMetrics:
    """Generate ``samples`` images as :func:`~.evaluate.evaluate` does and compare them with real images.

    Images are rounded to 8 bits first. Classes are drawn uniformly, whatever their shares of the data. Published FIDs
    use 50,000 samples against 50,000 real images or more. Fewer give a larger FID, so only compare equal counts.
    Raises UsageError for fewer than 10 samples or real images.
    """
    if min(samples, len(real.features)) < FEWEST:
        raise UsageError(
            f"{samples} samples against {len(real.features)} real images", f"Use at least {FEWEST} of each."
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
    images: ImageSet, extractor: Inception, *, count: int, cache: Path, progress: Progress | None = None
) -> RealFeatures:
    """Return features of ``count`` images (or all, if fewer) in a fixed random order, from the cache if possible.

    The cache key covers the content of the set, its resizing, the size, the count and the extractor. A damaged
    entry is made again. Raises what the image set raises, and InputError if the cache cannot be written.
    """
    count = min(count, len(images))
    height, width = images.size
    extent = {"data": images.identity, "resolution": height if height == width else [height, width]}
    made_of = {"format": _FORMAT, **extent, "extractor": extractor.key}
    key = hashlib.sha256(json.dumps({**made_of, "count": count}, sort_keys=True).encode()).hexdigest()[:32]
    path = cache / f"{key}.safetensors"
    cached = _read(path, count)
    if cached is not None:
        return RealFeatures(cached, cached=True)
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
            save_file({"features": features}, temporary, metadata={"made_of": json.dumps(made_of)})
    except OSError as error:
        raise InputError(
            f"the features of the real images cannot be written to {cache}: {error.strerror or error}",
            "Free some space, or set DCP_DEPLOY_CACHE to another folder.",
        ) from error
    return RealFeatures(features, cached=False)


def _read(path: Path, count: int) -> NDArray[np.float32] | None:
    """Return the features of a cache entry, or None if it is missing or damaged."""
    try:
        features = load_file(path)["features"]
    except (OSError, SafetensorError, KeyError):
        return None
    whole = features.ndim == 2 and len(features) == count and features.dtype == np.float32
    return features if whole and bool(np.isfinite(features).all()) else None
