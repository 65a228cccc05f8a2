"""The kernel distance between two sets of features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .feature_arrays import Features, checked_pair

SUBSETS, SUBSET = 100, 1000  # how many, and of how many rows each: the customary numbers


@dataclass(frozen=True)
class KernelDistance:
    """``mean`` over the subsets, about 0 for equal distributions and then as often below it; ``std`` among them."""

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

    The unbiased estimator of random subsets of ``size`` rows of each, without replacement, averaged over ``subsets``
    of them (Bińkowski et al. 2018, Demystifying MMD GANs, section 4: KID). Sets smaller than ``size`` are compared
    whole, once, with a spread of 0. All in float64; the subsets depend on ``seed`` alone.

    Raises ValueError for features that are not two matrices of equal width with at least two rows, or not finite.
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
    """Its unbiased estimate from rows [n, D] and [n, D]: pairs of a row with itself are left out."""
    n = len(x)
    own = sum(float(_kernel(rows, rows).fill_diagonal_(0.0).sum()) for rows in (x, y))
    return own / (n * (n - 1)) - 2.0 * float(_kernel(x, y).mean())


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1.0).pow_(3)
