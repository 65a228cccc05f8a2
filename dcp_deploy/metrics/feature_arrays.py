"""Checks and conversion of feature arrays [N, D] before they are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Features = NDArray[np.floating[Any]]


def _rows_of(features: Features, more_than: int) -> Tensor:
    """Convert to float64. Raises ValueError for ``more_than`` rows or fewer, or rows that are not finite."""
    rows = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float64))
    if rows.ndim != 2 or rows.shape[0] <= more_than:
        raise ValueError(f"features must be [N, D] with N > {more_than}, got {tuple(rows.shape)}")
    if not bool(rows.isfinite().all()):
        raise ValueError("features hold NaN or infinity")
    return rows


def checked_pair(real: Features, fake: Features, more_than: int = 1) -> tuple[Tensor, Tensor]:
    """Convert two sets of features. Raises ValueError if a set is unusable or their widths differ."""
    reals, fakes = _rows_of(real, more_than), _rows_of(fake, more_than)
    if reals.shape[1] != fakes.shape[1]:
        raise ValueError(f"features differ in width: {reals.shape[1]} and {fakes.shape[1]}")
    return reals, fakes
