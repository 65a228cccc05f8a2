"""Every figure that two sets of features give, whatever network made the features."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .feature_arrays import Features
from .fid import frechet_distance
from .kid import kernel_distance
from .manifold import overlaps

PRECISION_K, COVERAGE_K = 3, 5


@dataclass(frozen=True)
class Distances:
    """``fid`` >= 0 and ``kid`` (with its spread over subsets) in the units of the features.

    ``precision``, ``recall`` at k = 3, ``density``, ``coverage`` at k = 5, of equally many images of both kinds.
    """

    fid: float
    kid: float
    kid_std: float
    precision: float
    recall: float
    density: float
    coverage: float


def feature_distances(real: Features, fake: Features, *, device: torch.device | str = "cpu") -> Distances:
    """Compare features [N, D] of real images with features [M, D] of generated ones.

    The distances use all rows. Precision to coverage depend on the counts, so they use the first min(N, M) of each:
    bring the rows in no particular order. Raises ValueError for fewer than 6 rows, or rows that are not finite.
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
