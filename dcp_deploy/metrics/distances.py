"""All figures that compare two sets of features, whatever feature extractor made them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from .feature_arrays import Features
from .fid import frechet_distance
from .kid import kernel_distance
from .manifold import overlaps

PRECISION_K, COVERAGE_K = 3, 5


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
