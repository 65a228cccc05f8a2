"""The fixed smooth map from the demo teacher's latents to the factors of a portrait.

Each factor reads one direction of the normalised latent: ``u = Phi(<a_k, z>)`` with orthonormal ``a_k`` is uniform for
Gaussian z, and uniforms become factors as in the data. So a teacher that follows the map draws every factor at its
true rate by construction.
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

STEP_HALF_WIDTH = 0.1  # standard deviations of the latent's coordinate over which a category changes at the start


@dataclass(frozen=True)
class LatentMap:
    """z [B, z_dim] to uniforms [B, NUM_UNIFORMS] through fixed orthonormal directions."""

    directions: Tensor

    @classmethod
    def create(cls, z_dim: int, seed: int = 0) -> LatentMap:
        """Draw the directions: the first columns of a random orthogonal matrix."""
        noise = torch.randn(z_dim, NUM_UNIFORMS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        return cls(torch.linalg.qr(noise).Q)

    def uniforms(self, z: Tensor) -> NDArray[np.float64]:
        """Uniform numbers of each latent. Only the direction of z counts, as in StyleGAN's mapping network."""
        unit = z.double() / z.double().norm(dim=1, keepdim=True)
        return np.asarray(_sphere_cdf(unit @ self.directions, z.shape[1]))

    def hinges(self, count: int) -> tuple[Tensor, Tensor]:
        """Weight [count, z_dim] and bias [count] of a first layer that reads the map's directions.

        It acts on z of mean square one, whose coordinate along a direction is about N(0, 1). Each row is a hinge:
        spread over the quantiles for smooth factors, in steep pairs around the thresholds of categorical ones. A
        mapping network that starts so has only to combine them; to find the directions first takes it ten times longer.
        """
        weights, biases = [], []
        for column, rows in enumerate(np.array_split(np.arange(count), NUM_UNIFORMS)):
            knots, scale = _knots(FACTORS[column], len(rows))
            signs = np.where(np.arange(len(rows)) % 2, -1.0, 1.0) * scale
            weights.append(torch.from_numpy(signs)[:, None] * self.directions[:, column])
            biases.append(torch.from_numpy(-signs * knots))
        return torch.cat(weights).float(), torch.cat(biases).float()


def _knots(factor: Factor, count: int) -> tuple[NDArray[np.float64], float]:
    """Where the hinges of a factor bend, and how steep they are."""
    from scipy.stats import norm

    if factor.kind != "categorical":
        return norm.ppf((np.arange(count) + 0.5) / count), 1.0
    thresholds = norm.ppf(np.cumsum(factor.probabilities)[:-1])
    pairs = np.concatenate([thresholds - STEP_HALF_WIDTH, thresholds + STEP_HALF_WIDTH])
    return np.resize(pairs, count), 1 / (2 * STEP_HALF_WIDTH)


def _sphere_cdf(x: Tensor, dim: int) -> NDArray[np.float64]:
    """Distribution function of one coordinate of a uniform point on the unit sphere in ``dim`` dimensions.

    (x + 1) / 2 follows a Beta((dim-1)/2, (dim-1)/2) law, so the uniforms are exact at any dimension.
    """
    from scipy.special import betainc

    half = (dim - 1) / 2
    uniform = betainc(half, half, (x.numpy() + 1) / 2)
    return cast("NDArray[np.float64]", np.clip(uniform, 0.0, np.nextafter(1.0, 0.0)))


def balanced_uniforms(count: int, rng: np.random.Generator, share: float = 0.5) -> NDArray[np.float64]:
    """Uniforms [count, NUM_UNIFORMS] in which rare values come up more often.

    In a ``share`` of the draws a categorical factor takes all its values with equal probability. Fitting sees rare
    modes often enough to learn them; the map from z keeps their true rates.
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
    """Factors of the uniforms, their encoding [B, E] and the images [B, 3, 64, 64] in [-1, 1]."""
    factors = factors_from_uniforms(u)
    images = torch.from_numpy(render(factors)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return factors, torch.from_numpy(encode(factors)), images.contiguous()
