"""Rare latents: those whose codes are far from the mean, of which a short training sees too few.

The mean of the losses follows the common images, so rare ones, such as bald heads, are learned last. Drawing more of
them costs nothing but their mapping (measured: docs/distillation.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...generators import Generator
from ..scoring.directions import code_distribution

CANDIDATES = 4
"""Latents of which the rarest is taken."""
_LEAST_VARIANCE = 1e-3  # of the largest; directions of less variance do not count


@dataclass(frozen=True, eq=False)
class CodeDistances:
    """How far codes are from the mean code, in standard deviations along their principal directions (Mahalanobis)."""

    mean: Tensor  # [w_dim]
    axes: Tensor  # [w_dim, n], each divided by its standard deviation

    def __call__(self, codes: Tensor) -> Tensor:
        """Return the squared distances [B] of codes [B, w_dim]."""
        return ((codes - self.mean) @ self.axes).square().sum(dim=1)


def code_distances(generator: Generator, seed: int) -> CodeDistances:
    """Return the distances for the codes of ``generator``, on its device."""
    mean, components, variances = code_distribution(generator, seed)
    used = variances > _LEAST_VARIANCE * variances[0]
    axes = (components[used].T / variances[used].sqrt()).to(torch.float32)
    device = next(generator.parameters()).device
    return CodeDistances(mean.to(device, torch.float32), axes.to(device))


@torch.no_grad()
def with_rare(
    z: Tensor, c: Tensor | None, count: int, generator: Generator, distances: CodeDistances, source: torch.Generator
) -> Tensor:
    """Return ``z`` [B, z_dim] with its first ``count`` latents made rare: each the farthest of four, itself included.

    ``c`` [B, c_dim] are the classes, which stay. Everything is on the CPU, but ``generator``.
    """
    others = torch.randn(CANDIDATES - 1, count, z.shape[1], generator=source)
    candidates = torch.cat([z[None, :count], others])
    device = distances.mean.device
    labels = None if c is None else c[:count].repeat(CANDIDATES, 1).to(device)
    codes = generator.mapping.w(candidates.flatten(0, 1).to(device), labels)
    farthest = distances(codes).reshape(CANDIDATES, count).argmax(dim=0).cpu()
    return torch.cat([candidates[farthest, torch.arange(count)], z[count:]])
