"""Precision, recall, density and coverage: overlap of two sets of features by their k-nearest-neighbour radii."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .feature_arrays import Features, checked_pair

_BLOCK = 1024  # rows of the distance matrix in memory at a time


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
    reals, fakes = (rows.to(device) for rows in checked_pair(real, fake, max(ks)))
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
