"""Precision, recall, density, coverage: worked examples, and the definitions as loops."""

from __future__ import annotations

import numpy as np
import pytest

from dcp_deploy.metrics import distances, prdc


def by_definition(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[float, float, float, float]:
    def radius(rows: np.ndarray, index: int) -> float:
        return float(np.sort(np.linalg.norm(rows - rows[index], axis=1))[k])  # the 0-th is the row itself

    real_radii = [radius(real, index) for index in range(len(real))]
    fake_radii = [radius(fake, index) for index in range(len(fake))]
    in_real = np.array(
        [[np.linalg.norm(r - f) <= reach for f in fake] for r, reach in zip(real, real_radii, strict=True)]
    )
    in_fake = np.array(
        [[np.linalg.norm(r - f) <= reach for f, reach in zip(fake, fake_radii, strict=True)] for r in real]
    )
    return in_real.any(0).mean(), in_fake.any(1).mean(), in_real.sum() / (k * len(fake)), in_real.any(1).mean()


@pytest.mark.parametrize("k", [1, 3, 5])
def test_the_figures_agree_with_the_definitions(k: int) -> None:
    rng = np.random.default_rng(k)
    real, fake = rng.normal(size=(60, 4)), 0.7 * rng.normal(size=(45, 4)) + 0.5
    result = prdc(real, fake, k)
    assert (result.precision, result.recall, result.density, result.coverage) == pytest.approx(
        by_definition(real, fake, k), abs=1e-12
    )


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(50, 3)), rng.normal(size=(40, 3))
    whole = prdc(real, fake, 3)
    monkeypatch.setattr(distances, "_BLOCK", 7)
    assert prdc(real, fake, 3) == whole


def test_a_worked_example_on_a_line() -> None:
    real = np.array([[0.0], [1.0], [2.0], [10.0]])  # radii at k = 1: 1, 1, 1, 8
    fake = np.array([[0.5], [30.0]])  # both radii are 29.5
    result = prdc(real, fake, 1)
    assert result.precision == 0.5  # 30 is within no radius
    assert result.density == 1.0  # 0.5 is within the radii of 0 and 1: 2 pairs over 2 generated
    assert result.coverage == 0.5  # 0 and 1
    assert result.recall == 1.0  # the radius of 0.5 reaches 30


def test_losing_a_mode_keeps_precision_and_lowers_recall_and_coverage() -> None:
    rng = np.random.default_rng(1)
    left, right = rng.normal(size=(200, 4)), rng.normal(size=(200, 4)) + 20.0
    result = prdc(np.concatenate([left, right]), rng.normal(size=(400, 4)), 5)
    assert result.precision > 0.9
    assert result.recall < 0.55 and result.coverage < 0.55


def test_far_outliers_do_not_raise_density() -> None:
    rng = np.random.default_rng(2)
    real = rng.normal(size=(300, 4))
    assert prdc(real, rng.normal(size=(300, 4)) + 50.0, 5).density < 0.01


def test_the_same_distribution_has_density_near_one() -> None:
    rng = np.random.default_rng(3)
    result = prdc(rng.normal(size=(2000, 4)), rng.normal(size=(2000, 4)), 5)
    assert result.density == pytest.approx(1.0, abs=0.06)  # expectation 1, standard deviation about 0.015
    assert result.coverage == pytest.approx(1.0 - 0.5**5, abs=0.03)  # expectation for N = M (Naeem 2020, eq. 9)


def test_copies_of_a_point_are_each_others_neighbours() -> None:
    real = np.array([[0.0], [0.0], [5.0]])
    assert prdc(real, np.array([[0.0], [1.0]]), 1).coverage == 1.0  # a zero radius contains only the copy
    assert prdc(real, np.array([[0.1], [9.0]]), 1).coverage == pytest.approx(1 / 3)


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="N > 3"):
        prdc(np.zeros((3, 2)), np.ones((9, 2)), 3)


def test_features_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        prdc(np.full((9, 2), np.inf), np.ones((9, 2)), 3)
