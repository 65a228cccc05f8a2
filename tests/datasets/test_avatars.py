"""The demo portraits: deterministic pictures of independent factors with known rates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcp_deploy.datasets import canvas
from dcp_deploy.datasets.factors import (
    ENCODED_WIDTH,
    FACTOR_INDEX,
    FACTORS,
    NUM_UNIFORMS,
    Factors,
    decode,
    encode,
    factors_from_uniforms,
    sample_factors,
)
from dcp_deploy.datasets.portrait import avatars, detail_mask, render

SMOOTH = [factor.name for factor in FACTORS if factor.kind != "categorical"]
CIRCULAR = [factor.name for factor in FACTORS if factor.kind == "circular"]
CATEGORICAL = [factor for factor in FACTORS if factor.kind == "categorical"]
EXPECTED_ROW = [
    -0.2612265,
    0.5971186,
    0.7832804,
    2,
    -0.8690306,
    0.8138654,
    0,
    0,
    0,
    -0.7694983,
    0.6629438,
    -0.504557,
    0.5639834,
    -0.6366793,
    0.2001049,
]


def uniforms(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, NUM_UNIFORMS))


def with_value(factors: Factors, name: str, value: float) -> Factors:
    table = factors.table.copy()
    table[:, FACTOR_INDEX[name]] = value
    return Factors(table)


def plain(count: int) -> Factors:
    """Return heads with short hair and without hat, glasses or beard, so that every factor is visible."""
    factors = sample_factors(np.arange(count), 3)
    for name, value in (("hair_style", 1), ("glasses", 0), ("hat", 0), ("beard", 0)):
        factors = with_value(factors, name, value)
    return factors


def test_portraits_are_rgb_bytes_at_64_pixels() -> None:
    images = avatars(np.arange(5))
    assert images.shape == (5, 64, 64, 3) and images.dtype == np.uint8


def test_a_portrait_does_not_depend_on_its_batch() -> None:
    together = avatars(np.arange(40))
    alone = np.concatenate([avatars([index]) for index in (0, 7, 16, 39)])
    assert np.array_equal(together[[0, 7, 16, 39]], alone)


def test_indices_and_seeds_give_different_portraits() -> None:
    first, second = sample_factors(np.arange(1000), 0).table, sample_factors(np.arange(1000), 1).table
    assert len(np.unique(first, axis=0)) == 1000
    assert not (first == second).all(axis=1).any()


def test_the_factors_of_an_index_never_change() -> None:
    # Recorded from the first version, because published figures refer to these portraits.
    row = sample_factors([123456789012], 7).table[0]
    assert row.tolist() == pytest.approx(EXPECTED_ROW, abs=1e-6)


@pytest.mark.parametrize("factor", CATEGORICAL, ids=lambda factor: factor.name)
def test_categories_have_their_declared_rates(factor) -> None:
    count = 40_000
    rates = np.bincount(sample_factors(np.arange(count)).labels(factor.name), minlength=len(factor.values)) / count
    declared = np.array(factor.probabilities)
    deviation = np.abs(rates - declared) / np.sqrt(declared * (1 - declared) / count)
    assert deviation.max() < 4.5  # standard errors


def test_continuous_factors_are_uniform() -> None:
    factors = sample_factors(np.arange(20_000))
    for name in SMOOTH:
        column = factors.column(name)
        scaled = column if name in CIRCULAR else (column + 1) / 2
        # Kolmogorov and Smirnov's distance: 2.23 / sqrt(N) is exceeded with a probability of 1e-4.
        distance = np.abs(np.sort(scaled) - (np.arange(20_000) + 0.5) / 20_000).max()
        assert distance < 2.23 / np.sqrt(20_000), name


def test_factors_are_independent() -> None:
    correlation = np.corrcoef(sample_factors(np.arange(40_000)).table, rowvar=False)
    np.fill_diagonal(correlation, 0.0)
    assert np.abs(correlation).max() < 4.5 / np.sqrt(40_000)  # standard errors


def test_every_categorical_factor_declares_probabilities_that_sum_to_one() -> None:
    for factor in CATEGORICAL:
        assert sum(factor.probabilities) == pytest.approx(1.0)
        assert set(factor.rare) <= set(factor.values)


def test_rare_values_have_a_rate_of_about_a_twentieth() -> None:
    for factor in CATEGORICAL:
        for value in factor.rare:
            assert factor.probabilities[factor.values.index(value)] == pytest.approx(0.05)


@given(st.lists(st.floats(0.0, 1.0, exclude_max=True), min_size=NUM_UNIFORMS, max_size=NUM_UNIFORMS))
def test_decoding_undoes_encoding(row: list[float]) -> None:
    factors = factors_from_uniforms([row])
    code = encode(factors)
    assert code.shape == (1, ENCODED_WIDTH) and code.dtype == np.float32
    assert np.abs(code).max() <= 1.0
    back = decode(code)
    for factor in FACTORS:
        difference = abs(float(back.column(factor.name)[0] - factors.column(factor.name)[0]))
        if factor.kind == "circular":
            difference = min(difference, 1.0 - difference)
        assert difference < 1e-6  # float32 angle


@given(st.floats(0.0, 1.0, exclude_max=True), st.integers(0, NUM_UNIFORMS - 1))
def test_categories_follow_the_cumulative_thresholds(u: float, column: int) -> None:
    row = np.full((1, NUM_UNIFORMS), 0.5)
    row[0, column] = u
    factor = FACTORS[column]
    if factor.kind != "categorical":
        return
    label = int(factors_from_uniforms(row).labels(factor.name)[0])
    below = sum(factor.probabilities[:label])
    assert below - 1e-12 <= u < below + factor.probabilities[label] + 1e-12


@pytest.mark.parametrize("name", CIRCULAR)
def test_hues_zero_and_one_are_the_same_colour(name: str) -> None:
    low, high = uniforms(8), uniforms(8)
    low[:, FACTOR_INDEX[name]], high[:, FACTOR_INDEX[name]] = 0.0, np.nextafter(1.0, 0.0)
    assert np.allclose(encode(factors_from_uniforms(low)), encode(factors_from_uniforms(high)), atol=1e-6)
    difference = render(factors_from_uniforms(low)).astype(int) - render(factors_from_uniforms(high))
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("name", SMOOTH)
def test_a_small_step_of_a_continuous_factor_is_a_small_step_of_the_picture(name: str) -> None:
    start = uniforms(32)
    start[:, FACTOR_INDEX[name]] *= 0.99
    step = start.copy()
    step[:, FACTOR_INDEX[name]] += 0.002  # share of the range: at most 0.016 px of motion
    difference = np.abs(render(factors_from_uniforms(step)).astype(int) - render(factors_from_uniforms(start)))
    assert difference.max() <= 8  # levels of 255; an edge that jumps by a pixel gives 50 or more
    assert difference.mean() < 0.5


@pytest.mark.parametrize("name", SMOOTH)
def test_every_continuous_factor_changes_the_picture(name: str) -> None:
    low, high = with_value(plain(16), name, 0.0), with_value(plain(16), name, 0.5)
    difference = np.abs(render(low).astype(int) - render(high)).max(axis=(1, 2, 3))
    assert difference.min() > 15  # levels of 255, somewhere in every picture


@pytest.mark.parametrize("factor", CATEGORICAL, ids=lambda factor: factor.name)
def test_every_value_of_a_category_has_its_own_picture(factor) -> None:
    images = [render(with_value(plain(16), factor.name, value)).astype(int) for value in range(len(factor.values))]
    for first in range(len(images)):
        for second in range(first):
            changed = (np.abs(images[first] - images[second]).max(axis=3) > 40).sum(axis=(1, 2))
            assert changed.min() > 60  # pixels


def test_windows_crop_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # Draw extreme positions and sizes in every style, in windows and on the whole canvas.
    factors = sample_factors(np.arange(192), 5)
    for name in ("head_x", "head_y", "head_size"):
        factors = with_value(factors, name, 0.0)
        factors.table[:, FACTOR_INDEX[name]] = np.random.default_rng(FACTOR_INDEX[name]).choice([-1.0, 1.0], 192)
    for factor in CATEGORICAL:
        factors.table[:, FACTOR_INDEX[factor.name]] = np.arange(192) // 7 % len(factor.values)
    windowed = render(factors)
    monkeypatch.setattr(canvas, "window_of", lambda *box: (slice(0, 64), slice(0, 64)))
    whole = render(factors)
    assert np.abs(windowed.astype(int) - whole).max() <= 6  # the end of a soft edge


def test_edges_are_anti_aliased() -> None:
    # A shift by a quarter of a pixel changes edge pixels by a fraction of their contrast.
    still = with_value(plain(16), "head_x", 0.0)
    moved = with_value(plain(16), "head_x", 0.25 / 4.0)
    difference = np.abs(render(still).astype(int) - render(moved)).max(axis=(1, 2, 3))
    assert difference.min() > 10 and difference.max() < 130


def test_the_mask_marks_what_eyes_and_mouth_change() -> None:
    for name in ("eye_colour", "smile"):
        low, high = with_value(plain(32), name, -1.0), with_value(plain(32), name, 1.0)
        changed = np.abs(render(low).astype(int) - render(high)).max(axis=3) > 8
        assert changed.any()
        assert not (changed & (detail_mask(low) == 0.0)).any()


@pytest.mark.parametrize(("name", "value"), [("glasses", 1), ("glasses", 2), ("hat", 1), ("hat", 2)])
def test_the_mask_marks_glasses_and_hats(name: str, value: int) -> None:
    bare, worn = plain(32), with_value(plain(32), name, value)
    changed = np.abs(render(bare).astype(int) - render(worn)).max(axis=3) > 40
    missed = changed & (detail_mask(worn) == 0.0)
    assert missed.sum() < 0.02 * changed.sum()
    assert detail_mask(worn).sum() > detail_mask(bare).sum()


def test_a_table_of_the_wrong_width_is_refused() -> None:
    with pytest.raises(ValueError, match="factors need a table"):
        Factors(np.zeros((3, 4), dtype=np.float32))


def test_uniforms_of_the_wrong_width_are_refused() -> None:
    with pytest.raises(ValueError, match="factors need uniforms"):
        factors_from_uniforms(np.zeros((3, NUM_UNIFORMS - 1)))
