"""A fixed smooth map from the demo teacher's latents to the factors of a portrait.

Each factor depends on one direction of the normalised latent: ``u = Phi(<a_k, z>)`` with orthonormal ``a_k`` is uniform
for Gaussian z, and uniforms become factors as in the data. A teacher that follows the map therefore generates every
factor at its true rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..datasets.factors import FACTORS, NUM_UNIFORMS, Factor, Factors, encode, factors_from_uniforms
from ..datasets.portrait import render
from ..metrics.features import images_to_tensor

STEP_HALF_WIDTH = 0.1  # half the width of a change of category at initialisation, in standard deviations


@dataclass(frozen=True)
class LatentMap:
    """Map from z [B, z_dim] to uniforms [B, NUM_UNIFORMS] along fixed orthonormal directions."""

    directions: Tensor

    @classmethod
    def create(cls, z_dim: int, seed: int = 0) -> LatentMap:
        """Draw the directions: the first columns of a random orthogonal matrix."""
        noise = torch.randn(z_dim, NUM_UNIFORMS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        return cls(torch.linalg.qr(noise).Q)

    def uniforms(self, z: Tensor) -> NDArray[np.float64]:
        """Return the uniforms of each latent. Only the direction of z counts, as in StyleGAN's mapping network."""
        unit = z.double() / z.double().norm(dim=1, keepdim=True)
        return np.asarray(_sphere_cdf(unit @ self.directions, z.shape[1]))

    def hinges(self, count: int) -> tuple[Tensor, Tensor]:
        """Return weight [count, z_dim] and bias [count] of a first layer that reads the directions of the map.

        It acts on z of mean square one, whose coordinate along a direction is about N(0, 1). Each row is a hinge. Those
        of smooth factors cover the quantiles; those of categorical factors are steep pairs around the thresholds. A
        mapping network with this start learns ten times faster, because it need not find the directions.
        """
        weights, biases = [], []
        for column, rows in enumerate(np.array_split(np.arange(count), NUM_UNIFORMS)):
            knots, scale = _knots(FACTORS[column], len(rows))
            signs = np.where(np.arange(len(rows)) % 2, -1.0, 1.0) * scale
            weights.append(torch.from_numpy(signs)[:, None] * self.directions[:, column])
            biases.append(torch.from_numpy(-signs * knots))
        return torch.cat(weights).float(), torch.cat(biases).float()


def _knots(factor: Factor, count: int) -> tuple[NDArray[np.float64], float]:
    """Return the positions of a factor's hinges and their slope."""
    from scipy.stats import norm

    if factor.kind != "categorical":
        return norm.ppf((np.arange(count) + 0.5) / count), 1.0
    thresholds = norm.ppf(np.cumsum(factor.probabilities)[:-1])
    pairs = np.concatenate([thresholds - STEP_HALF_WIDTH, thresholds + STEP_HALF_WIDTH])
    return np.resize(pairs, count), 1 / (2 * STEP_HALF_WIDTH)


def _sphere_cdf(x: Tensor, dim: int) -> NDArray[np.float64]:
    """Return the distribution function of one coordinate of a uniform point on the unit sphere.

    (x + 1) / 2 has a Beta((dim-1)/2, (dim-1)/2) distribution, so the uniforms are exact in any dimension ``dim``.
    """
    from scipy.special import betainc

    half = (dim - 1) / 2
    uniform = betainc(half, half, (x.numpy() + 1) / 2)
    return cast("NDArray[np.float64]", np.clip(uniform, 0.0, np.nextafter(1.0, 0.0)))


def balanced_uniforms(count: int, rng: np.random.Generator, share: float = 0.5) -> NDArray[np.float64]:
    """Draw uniforms [count, NUM_UNIFORMS] in which rare values are more frequent.

    In a ``share`` of the rows a categorical factor takes all its values with equal probability. The fit thus sees rare
    modes often enough to learn them, and the map from z keeps their true rates.
    """
    u = rng.random((count, NUM_UNIFORMS))
    for column, factor in enumerate(FACTORS):
        if factor.kind == "categorical":
            edges = np.concatenate([[0.0], np.cumsum(factor.probabilities)])
            value = rng.integers(len(factor.values), size=count)
            inside = edges[value] + rng.random(count) * (edges[value + 1] - edges[value])
            u[:, column] = np.where(rng.random(count) < share, np.minimum(inside, 1 - 1e-12), u[:, column])
    return u


def targets(u: NDArray[np.float64]) -> tuple[Factors, Tensor, Tensor]:
    """Return the factors of the uniforms, their encoding [B, E] and the images [B, 3, 64, 64] in [-1, 1]."""
    factors = factors_from_uniforms(u)
    return factors, torch.from_numpy(encode(factors)), images_to_tensor(render(factors)).contiguous()
