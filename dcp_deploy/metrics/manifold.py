"""Precision, recall, density and coverage: how two sets of features overlap, judged by nearest-neighbour balls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Features = NDArray[np.floating[Any]]
_BLOCK = 1024  # rows of the distance matrix held at a time


@dataclass(frozen=True)
class Overlap:
    """Precision, recall, coverage in [0, 1]; density >= 0, about 1 when both sets follow the same distribution."""

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(real: Features, fake: Features, k: int, *, device: torch.device | str = "cpu") -> Overlap:
    """Overlap of features [N, D] and [M, D] by balls that reach to the k-th nearest neighbour within the own set.

    - precision: share of fakes inside at least one real ball; recall: share of reals inside at least one fake ball
      (Kynkäänniemi et al. 2019, Improved precision and recall metric, eq. 2 and 3; customary k = 3)
    - density: real balls that hold a fake, on average over fakes, over k; coverage: share of real balls that hold at
      least one fake (Naeem et al. 2020, Reliable fidelity and diversity metrics, eq. 3 and 4; customary k = 5)

    Balls are closed. Compare runs at equal N, M and k only. ``device`` computes the distances, in float64. Raises
    ValueError when a set has at most k rows.
    """
    reals, fakes = _rows(real, k).to(device), _rows(fake, k).to(device)
    if reals.shape[1] != fakes.shape[1]:
        raise ValueError(f"features differ in width: {reals.shape[1]} and {fakes.shape[1]}")
    real_radius, fake_radius = _radii(reals, k), _radii(fakes, k)
    inside = 0  # pairs (real ball, fake in it)
    fake_hit = torch.zeros(len(fakes), dtype=torch.bool, device=device)
    covered = recalled = 0
    for start in range(0, len(reals), _BLOCK):
        distance = torch.cdist(reals[start : start + _BLOCK], fakes)
        in_real = distance <= real_radius[start : start + _BLOCK, None]
        fake_hit |= in_real.any(dim=0)
        inside += int(in_real.sum())
        covered += int(in_real.any(dim=1).sum())
        recalled += int((distance <= fake_radius[None, :]).any(dim=1).sum())
    return Overlap(
        precision=float(fake_hit.double().mean()),
        recall=recalled / len(reals),
        density=inside / (k * len(fakes)),
        coverage=covered / len(reals),
    )


def _rows(features: Features, k: int) -> Tensor:
    rows = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float64))
    if rows.ndim != 2 or rows.shape[0] <= k:
        raise ValueError(f"features must be [N, D] with N > k = {k}, got {tuple(rows.shape)}")
    if not bool(rows.isfinite().all()):
        raise ValueError("features hold NaN or infinity")
    return rows


def _radii(rows: Tensor, k: int) -> Tensor:
    """Distance [N] of each row to its k-th nearest other row."""
    blocks = []
    for start in range(0, len(rows), _BLOCK):
        distance = torch.cdist(rows[start : start + _BLOCK], rows)
        own = torch.arange(distance.shape[0], device=rows.device)
        distance[own, start + own] = torch.inf  # a row is not its own neighbour, whatever rounding makes of the zero
        blocks.append(distance.kthvalue(k, dim=1).values)
    return torch.cat(blocks)
