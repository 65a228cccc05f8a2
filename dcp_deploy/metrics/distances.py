"""Figures that compare two sets of features [N, D], whatever feature extractor made them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Features = NDArray[np.floating[Any]]

PRECISION_K, COVERAGE_K = 3, 5
SUBSETS, SUBSET = 100, 1000  # customary number of subsets, and rows in each
_BLOCK = 1024  # rows of the distance matrix in memory at a time


@dataclass(frozen=True)
class Distances:
    """``fid`` >= 0 and ``kid``, with its standard deviation over subsets, in the units of the features.

    ``precision`` and ``recall`` at k = 3, ``density`` and ``coverage`` at k = 5, of as many real as generated images.
    """

    fid: float
    kid: float
    kid_std: float
    precision: float
    recall: float
    density: float
    coverage: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)


def feature_distances(real: Features, fake: Features, *, device: torch.device | str = "cpu") -> Distances:
    """Compare features [N, D] of real images with features [M, D] of generated ones.

    The distances use all rows. Precision, recall, density and coverage depend on the counts and use the first min(N, M)
    rows of each set, which should therefore be in random order. Raises ValueError for fewer than 6 rows, or rows that
    are not finite.
    """
    count = min(len(real), len(fake))
    closest, wider = overlaps(real[:count], fake[:count], (PRECISION_K, COVERAGE_K), device=device)
    kernel = kernel_distance(real, fake, device=device)
    return Distances(
        fid=frechet_distance(real, fake),
        kid=kernel.mean,
        kid_std=kernel.std,
        precision=closest.precision,
        recall=closest.recall,
        density=wider.density,
        coverage=wider.coverage,
    )


def _rows_of(features: Features, more_than: int) -> Tensor:
    """Convert to float64. Raises ValueError for ``more_than`` rows or fewer, or rows that are not finite."""
    rows = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float64))
    if rows.ndim != 2 or rows.shape[0] <= more_than:
        raise ValueError(f"features must be [N, D] with N > {more_than}, got {tuple(rows.shape)}")
    if not bool(rows.isfinite().all()):
        raise ValueError("features hold NaN or infinity")
    return rows


def _checked_pair(real: Features, fake: Features, more_than: int = 1) -> tuple[Tensor, Tensor]:
    """Convert two sets of features. Raises ValueError if a set is unusable or their widths differ."""
    reals, fakes = _rows_of(real, more_than), _rows_of(fake, more_than)
    if reals.shape[1] != fakes.shape[1]:
        raise ValueError(f"features differ in width: {reals.shape[1]} and {fakes.shape[1]}")
    return reals, fakes


# ---- Fréchet distance ----


def frechet_distance(real: Features, fake: Features) -> float:
    """Squared Fréchet (2-Wasserstein) distance between the normal distributions fitted to features [N, D] and [M, D].

    ``|m1 - m2|² + tr(C1 + C2 - 2 (C1^½ C2 C1^½)^½)`` (Dowson & Landau 1982; Heusel et al. 2017, GANs trained by a two
    time-scale update rule), in float64, >= 0. The root of the symmetric product comes from its eigenvalues, which is
    exact for rank-deficient covariances too; the usual sqrtm(C1 C2) becomes complex there.

    Raises ValueError unless both are finite matrices of equal width with at least two rows.
    """
    reals, fakes = _checked_pair(real, fake)
    mean_real, covariance_real = _moments(reals.numpy())
    mean_fake, covariance_fake = _moments(fakes.numpy())
    values, vectors = np.linalg.eigh(covariance_real)
    root = (vectors * np.sqrt(values.clip(min=0.0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ covariance_fake @ root).clip(min=0.0)).sum()
    shift = np.square(mean_real - mean_fake).sum()
    spread = np.trace(covariance_real) + np.trace(covariance_fake) - 2.0 * cross
    return max(0.0, float(shift + spread))  # rounding may give a tiny negative number


def _moments(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean [D] and unbiased covariance [D, D]."""
    return rows.mean(axis=0), np.cov(rows, rowvar=False).reshape(rows.shape[1], rows.shape[1])


# ---- kernel distance ----


@dataclass(frozen=True)
class KernelDistance:
    """``mean`` and ``std`` over subsets. The mean of equal distributions is about 0, and as often negative."""

    mean: float
    std: float


def kernel_distance(
    real: Features,
    fake: Features,
    *,
    subsets: int = SUBSETS,
    size: int = SUBSET,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> KernelDistance:
    """Squared maximum mean discrepancy of features [N, D] and [M, D] under the kernel (x·y / D + 1)³.

    Averages the unbiased estimate over ``subsets`` random subsets of ``size`` rows, drawn without replacement
    (Bińkowski et al. 2018, Demystifying MMD GANs, section 4: KID). Two sets of equal count <= ``size`` are compared
    once, whole, with a standard deviation of 0. Computes in float64; the subsets depend on ``seed`` alone.

    Raises ValueError unless both are finite matrices of equal width with at least two rows.
    """
    reals, fakes = (rows.to(device) for rows in _checked_pair(real, fake))
    count = min(size, len(reals), len(fakes))
    if count == len(reals) == len(fakes):
        subsets = 1  # every subset would be the same
    random = np.random.default_rng(seed)
    found = []
    for _ in range(subsets):
        x = reals[torch.from_numpy(random.permutation(len(reals))[:count])]
        y = fakes[torch.from_numpy(random.permutation(len(fakes))[:count])]
        found.append(unbiased_mmd(x, y))
    return KernelDistance(float(np.mean(found)), float(np.std(found)))


def unbiased_mmd(x: Tensor, y: Tensor) -> float:
    """Estimate the squared discrepancy of rows [n, D] and [n, D] without bias: no row is paired with itself."""
    n = len(x)
    own = sum(float(_kernel(rows, rows).fill_diagonal_(0.0).sum()) for rows in (x, y))
    return own / (n * (n - 1)) - 2.0 * float(_kernel(x, y).mean())


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1.0).pow_(3)


# ---- overlap by k-nearest-neighbour radii ----


@dataclass(frozen=True)
class Overlap:
    """Precision, recall and coverage in [0, 1]; density >= 0, about 1 if both sets have the same distribution."""

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(real: Features, fake: Features, k: int, *, device: torch.device | str = "cpu") -> Overlap:
    """Measure the overlap of features [N, D] of real and [M, D] of generated images.

    The k-NN radius of an image is the distance to its k-th nearest neighbour in its own set.

    - precision: share of generated images within the radius of at least one real image; recall: the reverse
      (Kynkäänniemi et al. 2019, Improved precision and recall metric, eq. 2 and 3; customary k = 3)
    - density: mean number of real images within whose radius a generated image lies, divided by k; coverage: share of
      real images with a generated image within their radius (Naeem et al. 2020, Reliable fidelity and diversity
      metrics, eq. 3 and 4; customary k = 5)

    Distances equal to the radius count. Only figures of equal N, M and k are comparable. ``device`` computes the
    distances, in float64. Raises ValueError if a set has at most k rows.
    """
    return overlaps(real, fake, (k,), device=device)[0]


def overlaps(
    real: Features, fake: Features, ks: Sequence[int], *, device: torch.device | str = "cpu"
) -> tuple[Overlap, ...]:
    """Compute :func:`prdc` for several k from the same distances."""
    reals, fakes = (rows.to(device) for rows in _checked_pair(real, fake, max(ks)))
    counts = [_Count(k, own, others) for k, own, others in zip(ks, _radii(reals, ks), _radii(fakes, ks), strict=True)]
    for start in range(0, len(reals), _BLOCK):
        distance = torch.cdist(reals[start : start + _BLOCK], fakes)
        for count in counts:
            count.add(distance, start)
    return tuple(count.overlap() for count in counts)


class _Count:
    """Counts of images within each other's radii, from blocks of distances [n, M] from real to generated images."""

    def __init__(self, k: int, real_radius: Tensor, fake_radius: Tensor) -> None:
        self.k, self.real_radius, self.fake_radius = k, real_radius, fake_radius
        self.fake_hit = torch.zeros(len(fake_radius), dtype=torch.bool, device=fake_radius.device)
        self.inside = self.covered = self.recalled = 0  # inside: pairs (real, generated within its radius)

    def add(self, distance: Tensor, start: int) -> None:
        in_real = distance <= self.real_radius[start : start + len(distance), None]
        self.fake_hit |= in_real.any(dim=0)
        self.inside += int(in_real.sum())
        self.covered += int(in_real.any(dim=1).sum())
        self.recalled += int((distance <= self.fake_radius[None, :]).any(dim=1).sum())

    def overlap(self) -> Overlap:
        return Overlap(
            precision=float(self.fake_hit.double().mean()),
            recall=self.recalled / len(self.real_radius),
            density=self.inside / (self.k * len(self.fake_radius)),
            coverage=self.covered / len(self.real_radius),
        )


def _radii(rows: Tensor, ks: Sequence[int]) -> list[Tensor]:
    """Return for each k the distances [N] of the rows to their k-th nearest other row."""
    blocks: list[list[Tensor]] = [[] for _ in ks]
    for start in range(0, len(rows), _BLOCK):
        distance = torch.cdist(rows[start : start + _BLOCK], rows)
        own = torch.arange(distance.shape[0], device=rows.device)
        distance[own, start + own] = torch.inf  # a row is not its own neighbour
        for found, k in zip(blocks, ks, strict=True):
            found.append(distance.kthvalue(k, dim=1).values)
    return [torch.cat(found) for found in blocks]
