"""The kernel distance: a worked example, without bias, reproducible."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dcp_deploy.metrics import kernel_distance
from dcp_deploy.metrics.distances import unbiased_mmd


def test_a_worked_example() -> None:
    x, y = torch.tensor([[0.0], [1.0]], dtype=torch.float64), torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    # k(0, 1) = 1, k(1, 2) = 27; across: k(0, 1) = k(0, 2) = 1, k(1, 1) = 8, k(1, 2) = 27.
    assert unbiased_mmd(x, y) == pytest.approx(2 * 1 / 2 + 2 * 27 / 2 - 2 * (1 + 1 + 8 + 27) / 4)


def test_equal_distributions_are_zero_on_average_and_sometimes_below() -> None:
    rng = np.random.default_rng(0)
    found = [kernel_distance(rng.normal(size=(60, 4)), rng.normal(size=(60, 4))).mean for _ in range(40)]
    assert min(found) < 0 < max(found)
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(40)


def test_a_larger_shift_has_a_larger_distance() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(400, 4))
    near, far = (kernel_distance(rows, rng.normal(size=(400, 4)) + by, size=200).mean for by in (0.1, 1.0))
    assert far > 10 * abs(near)


def test_the_seed_determines_the_subsets() -> None:
    rng = np.random.default_rng(2)
    real, fake = rng.normal(size=(50, 3)), rng.normal(size=(70, 3))
    first = kernel_distance(real, fake, subsets=5, size=20)
    assert kernel_distance(real, fake, subsets=5, size=20) == first
    assert kernel_distance(real, fake, subsets=5, size=20, seed=1) != first
    assert first.std > 0


def test_a_larger_set_is_sampled_even_when_the_smaller_is_taken_whole() -> None:
    rng = np.random.default_rng(3)
    assert kernel_distance(rng.normal(size=(30, 3)), rng.normal(size=(90, 3)), subsets=5).std > 0


@pytest.mark.parametrize("bad", [np.zeros((1, 3)), np.zeros(5), np.full((4, 3), np.nan)])
def test_unusable_features_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="features"):
        kernel_distance(bad, np.zeros((4, 3)))


def test_features_of_different_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in width"):
        kernel_distance(np.eye(4), np.eye(5))
