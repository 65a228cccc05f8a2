"""Whether enough latents were scored: two halves of the sample, scored apart, should keep the same channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..pruning.planning import kept_width

RATIO = 0.7  # at which the halves are compared, whatever is pruned later
STABLE = 0.9  # mean share of kept channels in common that ends ``latents="auto"``


def kept_in_common(first: Sequence[Tensor], second: Sequence[Tensor]) -> list[float]:
    """For each layer, the share of the channels kept by one score that the other keeps too.

    Chance alone gives about ``1 - RATIO``, equal orders 1. Each half has half the latents, so the order of the whole
    sample is more certain than the two agree.
    """
    return [_common(a, b) for a, b in zip(first, second, strict=True)]


def _common(a: Tensor, b: Tensor) -> float:
    width = kept_width(len(a), RATIO, 1)
    kept = (set(torch.argsort(scores, stable=True)[len(a) - width :].tolist()) for scores in (a, b))
    return len(set.intersection(*kept)) / width
