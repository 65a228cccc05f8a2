"""The Fréchet distance against closed forms and the textbook formula."""

from __future__ import annotations

import numpy as np
import pytest

from dcp_deploy.metrics import frechet_distance


def normal(count: int, mean: np.ndarray, mix: np.ndarray, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, len(mean))) @ mix + mean


def whitened(count: int, width: int) -> np.ndarray:
    """Return rows whose sample mean is exactly 0 and whose sample covariance is exactly the identity."""
    rows = np.random.default_rng(0).standard_normal((count, width))
    rows -= rows.mean(axis=0)
    return rows @ np.linalg.inv(np.linalg.cholesky(np.cov(rows, rowvar=False))).T


def test_a_set_is_at_distance_zero_from_itself() -> None:
    rows = normal(500, np.arange(6.0), np.diag(np.arange(1.0, 7.0)), 0)
    assert frechet_distance(rows, rows) == pytest.approx(0.0, abs=1e-9)


def test_the_distance_of_a_shift_is_its_squared_length() -> None:
    rows = whitened(300, 5)
    assert frechet_distance(rows, rows + np.array([3.0, 0.0, 4.0, 0.0, 0.0])) == pytest.approx(25.0, rel=1e-12)


def test_the_distance_of_a_change_of_scale_adds_up_by_axis() -> None:
    rows = whitened(300, 3)  # covariances I and diag(s²): the sum of (1 - s)²
    assert frechet_distance(rows, rows * np.array([2.0, 0.5, 1.0])) == pytest.approx(1.25, rel=1e-12)


def test_the_distance_agrees_with_the_textbook_formula() -> None:
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(1)
    first = normal(400, rng.normal(size=8), rng.normal(size=(8, 8)), 2)
    second = normal(300, rng.normal(size=8), rng.normal(size=(8, 8)), 3)
    c1, c2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    expected = np.sum((first.mean(0) - second.mean(0)) ** 2) + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)


def test_the_distance_is_symmetric() -> None:
    rng = np.random.default_rng(4)
    first, second = rng.normal(size=(60, 7)), 2.0 * rng.normal(size=(90, 7))
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first), rel=1e-10)


def test_fewer_samples_than_dimensions_work() -> None:
    rng = np.random.default_rng(5)
    first, second = rng.normal(size=(10, 40)), rng.normal(size=(12, 40)) + 1.0
    assert 0.0 < frechet_distance(first, second) < 200.0


def test_single_precision_features_are_summed_in_double() -> None:
    rows = (whitened(4000, 4) + 1000.0).astype(np.float32)  # float32 moments have an error of about 0.1 here
    assert frechet_distance(rows, rows + np.float32(0.5)) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("bad", [np.zeros((1, 3)), np.zeros(5), np.full((4, 3), np.nan)])
def test_unusable_features_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="features"):
        frechet_distance(bad, np.zeros((4, 3)))


def test_features_of_different_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in width"):
        frechet_distance(np.eye(4), np.eye(5))
