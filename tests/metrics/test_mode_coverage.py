"""Mode coverage of complete data, of lost modes and of shifted rates."""

from __future__ import annotations

import numpy as np
import pytest

from dcp_deploy.datasets.factors import FACTOR_INDEX, FACTORS, Factors, sample_factors
from dcp_deploy.metrics import mode_coverage, mode_table, rare_ratios

REAL = sample_factors(np.arange(10_000))
FAKE = sample_factors(np.arange(20_000, 25_000))


def replaced(factors: Factors, name: str, column: np.ndarray | float) -> Factors:
    table = factors.table.copy()
    table[:, FACTOR_INDEX[name]] = column
    return Factors(table)


def without(factors: Factors, name: str, value: int) -> Factors:
    """Replace one value of a categorical factor by another."""
    labels = factors.labels(name)
    return replaced(factors, name, np.where(labels == value, 1 if value == 0 else 0, labels))


def test_fresh_data_covers_all_modes() -> None:
    report = mode_coverage(REAL, FAKE)
    assert report.coverage == 1.0
    assert report.frequency_error < 0.03  # sampling noise: about sqrt(cells / samples) / 2
    assert report.cells > 550  # of 653, some of which are hidden or too rare


@pytest.mark.parametrize(
    ("name", "value"), [("hair_style", 0), ("glasses", 2), ("hat", 2), ("beard", 1)], ids=lambda item: str(item)
)
def test_losing_one_rare_value_lowers_coverage_below_95_percent(name: str, value: int) -> None:
    assert mode_coverage(REAL, without(FAKE, name, value)).coverage < 0.95


def test_a_single_picture_covers_almost_nothing() -> None:
    collapsed = Factors(np.repeat(FAKE.table[:1], 5000, axis=0))
    report = mode_coverage(REAL, collapsed)
    assert report.coverage < 0.15
    assert report.frequency_error > 0.5


def test_losing_part_of_the_hue_circle_lowers_coverage() -> None:
    hue = FAKE.column("background_hue") / 2.0
    report = mode_coverage(REAL, replaced(FAKE, "background_hue", hue))
    assert 0.85 < report.coverage < 0.97  # three of six bins of one of twelve factors
    assert report.frequency_error > mode_coverage(REAL, FAKE).frequency_error + 0.02


def test_a_cell_needs_a_quarter_of_its_expected_samples() -> None:
    sunglasses = np.flatnonzero(FAKE.labels("glasses") == 2)

    def keep(share: float) -> float:
        labels = FAKE.labels("glasses").copy()
        labels[sunglasses[int(share * len(sunglasses)) :]] = 0
        return mode_coverage(REAL, replaced(FAKE, "glasses", labels)).coverage

    assert keep(0.6) > 0.99
    assert keep(0.1) < 0.95


def test_hidden_factors_do_not_count() -> None:
    # The reader may return anything for eyes behind sunglasses and the hair of bald heads.
    behind = FAKE.labels("glasses") == 2
    bald = FAKE.labels("hair_style") == 0
    misread = replaced(FAKE, "eye_colour", np.where(behind, 0.9, FAKE.column("eye_colour")))
    misread = replaced(misread, "hair_hue", np.where(bald, 0.1, FAKE.column("hair_hue")))
    misread = replaced(misread, "hair_lightness", np.where(bald, 0.1, FAKE.column("hair_lightness")))
    assert mode_coverage(REAL, misread).coverage == 1.0


def test_the_ends_of_the_range_belong_to_a_bin() -> None:
    table = FAKE.table.copy()
    for factor in FACTORS:
        if factor.kind == "continuous":
            table[:, FACTOR_INDEX[factor.name]] = np.sign(table[:, FACTOR_INDEX[factor.name]])
    report = mode_coverage(Factors(table), Factors(table))
    assert report.coverage == 1.0 and report.frequency_error == 0.0


def test_ratios_of_rare_values_are_about_one_for_the_data() -> None:
    ratios = rare_ratios(REAL)
    assert set(ratios) == {"hair_style=bald", "glasses=sunglasses", "hat=top_hat", "beard=full"}
    for ratio in ratios.values():
        assert ratio == pytest.approx(1.0, abs=0.2)  # 500 of 10,000: a standard error of 4.4 %


def test_the_ratio_of_a_rare_value_follows_its_count() -> None:
    labels = np.zeros(len(FAKE))
    labels[:500] = 2
    assert rare_ratios(replaced(FAKE, "hat", labels))["hat=top_hat"] == pytest.approx(2.0)
    assert rare_ratios(without(FAKE, "hat", 2))["hat=top_hat"] == 0.0


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="too few samples"):
        mode_coverage(REAL[:10], FAKE[:10])


def test_the_table_has_the_rates_of_every_value_and_bin() -> None:
    rows = mode_table(REAL, without(FAKE, "hat", 2))
    assert len(rows) == sum(len(f.values) or {"continuous": 4, "circular": 6}[f.kind] for f in FACTORS)
    table = {(row.factor, row.value): row for row in rows}
    top_hat = table["hat", "top_hat"]
    assert top_hat.samples == 0.0 and top_hat.ratio == 0.0
    assert top_hat.data == float((REAL.labels("hat") == 2).mean())
    smile = table["smile", "-1 to -0.5"]
    assert smile.data == float((REAL.column("smile") < -0.5).mean())
    for factor in FACTORS:
        assert sum(row.samples for row in rows if row.factor == factor.name) == pytest.approx(1.0)


def test_a_value_missing_from_the_data_has_no_ratio() -> None:
    rows = mode_table(without(REAL, "hat", 2), FAKE)
    assert [row.ratio for row in rows if row.value == "top_hat"] == [None]
