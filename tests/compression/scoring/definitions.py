"""Elimination by its definition, without the downdates that make it fast."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dcp_deploy.compression.scoring.elimination import Regression


def elimination_order_by_definition(readers: Sequence[Regression]) -> Tensor:
    """Return the order of drops, every candidate's normal equations solved anew each time: O(C^5)."""
    left, order = list(range(readers[0].weights.shape[1])), []
    while left:
        errors = [error_of(readers, [c for c in left if c != gone]) for gone in left]
        order.append(left.pop(int(np.argmin(errors))))
    return torch.tensor(order)


def error_of(readers: Sequence[Regression], kept: Sequence[int]) -> float:
    """Return what the channels ``kept`` cannot rebuild of the responses, by solving the normal equations."""
    total = 0.0
    for reader in readers:
        cross = reader.weights @ reader.moment[:, kept]
        fitted = torch.linalg.solve(reader.moment[kept][:, kept], cross.T).T
        total += float(reader.energy - (fitted * cross).sum())
    return total
