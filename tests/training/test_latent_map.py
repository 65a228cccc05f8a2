"""The map from latents to factors keeps the rates of the data, and the fit sees rare values more often."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import kstest

from dcp_deploy.datasets.factors import FACTORS, NUM_UNIFORMS, factors_from_uniforms
from dcp_deploy.training.latent_map import LatentMap, balanced_uniforms, targets


def test_gaussian_latents_give_independent_uniforms() -> None:
    u = LatentMap.create(64).uniforms(torch.randn(4000, 64, generator=torch.Generator().manual_seed(0)))
    assert u.shape == (4000, NUM_UNIFORMS)
    for column in u.T:
        assert kstest(column, "uniform").pvalue > 1e-4  # a wrong distribution gives 1e-50
    correlation = np.corrcoef(u.T) - np.eye(NUM_UNIFORMS)
    assert np.abs(correlation).max() < 0.08  # five standard errors of 4000 samples


def test_only_the_direction_of_a_latent_counts() -> None:
    z = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(LatentMap.create(64).uniforms(2 * z), LatentMap.create(64).uniforms(z))


def test_balanced_uniforms_raise_the_rates_of_rare_values() -> None:
    u = balanced_uniforms(20_000, np.random.default_rng(0), share=0.5)
    factors = factors_from_uniforms(u)
    for factor in FACTORS:
        for value in factor.rare:
            position = factor.values.index(value)
            rate = (factors.labels(factor.name) == position).mean()
            expected = 0.5 * factor.probabilities[position] + 0.5 / len(factor.values)
            assert abs(rate - expected) < 0.02


def test_targets_are_the_portraits_of_the_factors() -> None:
    factors, encoded, images = targets(balanced_uniforms(3, np.random.default_rng(0)))
    assert len(factors) == len(encoded) == 3
    assert images.shape == (3, 3, 64, 64)
    assert -1 <= images.min() < images.max() <= 1
