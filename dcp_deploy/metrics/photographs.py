"""Measure a generator against real images, whose features are cached."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import Tensor

from ..datasets.images import ImageSet
from ..datasets.labels import Labels
from ..distributed.joining import gather_rows, helpers
from ..distributed.team import Team
from ..errors import MissingCapabilityError, UsageError
from ..files import write_bytes
from ..progress import Progress, shifted
from .distances import Distances, feature_distances
from .drawing import Model, Reader, latents_for, read_drawn, to_bytes
from .protocol import recipe_name
from .published import FeatureExtractor

FEWEST = 10  # images that the k-nearest-neighbour figures need; far too few for meaningful figures
_BATCH = 32
_FORMAT = 1  # format of the cache; a new number invalidates all entries


@dataclass(frozen=True)
class DataMetrics(Distances):
    """Quality against real images. ``recipe``: the published name of the FID, or what it was measured on.

    ``reals``: number of real images, which ``mirrored`` doubles. ``classes``: "data" if the classes of a conditional
    generator have the frequencies of the data's labels, "even", or null. ``noise``: the noise maps of the generated
    images. ``cached``: whether the features of the real images were in the cache.
    """

    recipe: str
    samples: int
    reals: int
    mirrored: bool
    classes: str | None
    noise: str
    seed: int
    psi: float
    features: str
    cached: bool


@dataclass(frozen=True)
class RealFeatures:
    """Features [N, D] of real images in random order, and whether they came from the cache.

    ``available``: number of images of the whole set. ``mirrored``: whether each image is in there twice, once mirrored.
    """

    features: NDArray[np.float32]
    cached: bool
    available: int
    mirrored: bool = False

    @property
    def count(self) -> int:
        """Number of images, without the mirrored ones."""
        return len(self.features) // (2 if self.mirrored else 1)


def evaluate_against(
    model: Model,
    real: RealFeatures,
    extractor: FeatureExtractor,
    *,
    samples: int,
    seed: int = 0,
    psi: float = 1.0,
    batch: int = _BATCH,
    labels: Labels | None = None,
    progress: Progress | None = None,
) -> DataMetrics:
    """Generate ``samples`` images as :func:`~.evaluate.evaluate` does and compare them with real images.

    Images are rounded to 8 bits first. ``labels``: those of the real images, whose frequencies the classes then have
    (see :func:`~.drawing.latents_for`). Published FIDs use 50,000 samples against all real images. Fewer give a larger
    FID, so only compare equal counts. Raises UsageError for fewer than 10 samples or real images.
    """
    if min(samples, real.count) < FEWEST:
        raise UsageError(
            f"{samples} samples against {real.count} real images",
            f"Use at least {FEWEST} of each: fewer do not show how images vary.",
        )
    latents = latents_for(model, samples, seed, labels)
    reader_on = partial(_reader_on, _portable(extractor))
    fake = read_drawn(model, latents, reader_on, psi=psi, batch=batch, progress=progress)
    distances = feature_distances(real.features, fake, device=extractor.device)
    name = extractor.name
    return DataMetrics(
        **asdict(distances),
        recipe=recipe_name(samples, real.count, real.available, mirrored=real.mirrored, psi=psi, features=name),
        samples=samples,
        reals=real.count,
        mirrored=real.mirrored,
        classes=None if latents.c is None else "even" if labels is None else "data",
        noise="const",
        seed=seed,
        psi=psi,
        features=name,
        cached=real.cached,
    )


def _portable(extractor: FeatureExtractor) -> FeatureExtractor:
    """Return the extractor as it can be sent to the processes of a launch; alone, itself."""
    return extractor if helpers() == 1 else _on(extractor, torch.device("cpu"))


def _on(extractor: FeatureExtractor, device: torch.device) -> FeatureExtractor:
    return extractor if extractor.device == device else extractor.on(device)


def _reader_on(extractor: FeatureExtractor, device: torch.device) -> Reader:
    return partial(_features_of_drawn, _on(extractor, device))


def _features_of_drawn(extractor: FeatureExtractor, images: Tensor) -> NDArray[np.float32]:
    return extractor(to_bytes(images))


def real_features(
    images: ImageSet,
    extractor: FeatureExtractor,
    *,
    count: int | None,
    cache: Path,
    mirrored: bool = False,
    progress: Progress | None = None,
) -> RealFeatures:
    """Return features of ``count`` images (all if None or fewer) in a fixed random order, from the cache if possible.

    ``mirrored`` adds those of the mirror image of each. The cache key covers the content of the set, its resizing, the
    size, the count, mirroring and the extractor. A damaged entry is made again. Raises what the image set raises,
    and MissingCapabilityError if the cache cannot be written.
    """
    count = len(images) if count is None else min(count, len(images))
    order = np.random.default_rng(0).permutation(len(images))[:count].tolist()
    if not mirrored:
        return RealFeatures(*_features(images, extractor, order, cache, False, progress), len(images))
    total = 2 * count
    plain, flipped = (
        _features(images, extractor, order, cache, flip, shifted(progress, flip * count, total))
        for flip in (False, True)
    )
    both = np.concatenate([plain[0], flipped[0]])[np.random.default_rng(1).permutation(total)]
    return RealFeatures(both, plain[1] and flipped[1], len(images), mirrored=True)


def _features(
    images: ImageSet, extractor: FeatureExtractor, order: list[int], cache: Path, flip: bool, progress: Progress | None
) -> tuple[NDArray[np.float32], bool]:
    """Return the features of the images in this order, mirrored if ``flip``, and whether they came from the cache."""
    height, width = images.size
    extent = {"data": images.identity, "resolution": height if height == width else [height, width]}
    extent |= {"mirrored": True} if flip else {}
    made_of = {"format": _FORMAT, **extent, "extractor": extractor.key}
    key = hashlib.sha256(json.dumps({**made_of, "count": len(order)}, sort_keys=True).encode()).hexdigest()[:32]
    path = cache / f"{key}.safetensors"
    cached = _read(path, len(order))
    if cached is not None:
        return cached, True
    rows = partial(_real_rows, images, _portable(extractor), order, flip)
    features = gather_rows(rows, extractor.device, progress).numpy()
    try:
        write_bytes(path, save({"features": features}, {"made_of": json.dumps(made_of)}))
    except (OSError, UsageError) as error:
        reason = error.message if isinstance(error, UsageError) else error.strerror or error
        raise MissingCapabilityError(
            f"the features of the real images cannot be written to {cache}: {reason}",
            "Free some space, or set DCP_DEPLOY_CACHE to another folder.",
        ) from error
    return features, False


def _real_rows(
    images: ImageSet,
    extractor: FeatureExtractor,
    order: list[int],
    flip: bool,
    device: torch.device,
    team: Team,
    progress: Progress | None = None,
) -> Iterator[Tensor]:
    """Yield the features of this process's share of the batches of real images."""
    read, stride = _on(extractor, device), team.size * _BATCH
    for start in range(team.rank * _BATCH, len(order), stride):
        after = start + stride
        samples = images.samples(order[start : start + _BATCH], then=order[after : after + _BATCH])
        batch = torch.from_numpy(np.stack([sample.image for sample in samples])).permute(0, 3, 1, 2)
        yield torch.from_numpy(read((batch.flip(3) if flip else batch).contiguous()))
        if progress:
            progress(min(after, len(order)), len(order))


def _read(path: Path, count: int) -> NDArray[np.float32] | None:
    """Return the features of a cache entry, or None if it is missing or damaged."""
    try:
        features = load_file(path)["features"]
    except (OSError, SafetensorError, KeyError):
        return None
    whole = features.ndim == 2 and len(features) == count and features.dtype == np.float32
    return features if whole and bool(np.isfinite(features).all()) else None
