"""Kernel distance between two sets of features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .feature_arrays import Features, checked_pair

SUBSETS, SUBSET = 100, 1000  # customary number of subsets, and rows in each


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
    reals, fakes = (rows.to(device) for rows in checked_pair(real, fake))
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
