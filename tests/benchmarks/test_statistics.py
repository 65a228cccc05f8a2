"""Statistics of samples with known answers."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcp_deploy.benchmarks import statistics
from dcp_deploy.benchmarks.statistics import (
    block_length,
    needed_count,
    percentile_intervals,
    ratio_of_medians,
    ratio_of_runs,
    stability,
    summarise,
    widened,
)

latencies = st.lists(st.floats(0.01, 1e4), min_size=1, max_size=60)


def resamples(count):
    """Return a decorator for a test that needs fewer resamples than the harness draws, or whose trials are many."""
    return patch.object(statistics, "RESAMPLES", count)


def test_percentiles_interpolate_linearly_between_order_statistics():
    summary = summarise(range(1, 101))  # type 7: position 1 + 99 q
    assert (summary.p50_ms, summary.p90_ms) == (50.5, pytest.approx(90.1))
    assert summary.p99_ms == pytest.approx(99.01)


def test_summary_of_known_samples():
    summary = summarise([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0])
    assert summary.count == 8
    assert summary.mean_ms == 5.0
    assert summary.std_ms == pytest.approx(np.sqrt(32 / 7))  # squared deviations sum to 32, over n - 1
    assert (summary.min_ms, summary.max_ms) == (2.0, 9.0)


def test_one_sample_has_no_spread():
    assert summarise([3.0]).std_ms == 0.0


@given(latencies)
def test_percentiles_are_ordered_and_within_the_samples(samples):
    s = summarise(samples)
    assert s.min_ms <= s.p50_ms <= s.p90_ms <= s.p95_ms <= s.p99_ms <= s.max_ms


@pytest.mark.parametrize(("quantile", "count"), [(0.5, 5), (0.9, 29), (0.95, 59), (0.99, 299)])
def test_needed_count_is_wilks(quantile, count):
    assert needed_count(quantile) == count
    assert 1 - quantile**count >= 0.95 > 1 - quantile ** (count - 1)


def test_p99_is_indicative_below_the_needed_count():
    assert summarise(np.ones(298)).p99_indicative
    assert not summarise(np.ones(299)).p99_indicative


@pytest.mark.parametrize("quantile", [0.0, 1.0, -0.1])
def test_needed_count_refuses_a_quantile_outside_the_open_interval(quantile):
    with pytest.raises(ValueError, match="between 0 and 1"):
        needed_count(quantile)


@pytest.mark.parametrize("samples", [[], [[1.0]], [1.0, float("nan")], [1.0, 0.0], [-1.0], [float("inf")]])
def test_samples_that_are_not_latencies_are_refused(samples):
    with pytest.raises(ValueError, match="latencies"):
        summarise(samples)


def test_constant_samples_give_a_ratio_without_width():
    interval = ratio_of_medians([10.0] * 30, [2.5] * 30)
    assert (interval.value, interval.low, interval.high) == (4.0, 4.0, 4.0)


def test_load_on_both_cancels_in_the_ratio():
    load = np.random.default_rng(1).uniform(1, 10, 100)  # every round slowed by its own factor, both alike
    interval = ratio_of_medians(8 * load, 2 * load)
    assert (interval.low, interval.high) == (pytest.approx(4.0), pytest.approx(4.0))


def test_unpaired_samples_are_refused():
    with pytest.raises(ValueError, match="paired by round"):
        ratio_of_medians([1.0, 2.0], [1.0])


def test_interval_depends_on_the_seed_only():
    rng = np.random.default_rng(2)
    a, b = rng.lognormal(2, 0.2, 80), rng.lognormal(0, 0.2, 80)
    assert ratio_of_medians(a, b, seed=3) == ratio_of_medians(a, b, seed=3)
    assert ratio_of_medians(a, b, seed=3) != ratio_of_medians(a, b, seed=4)


@resamples(50)
@given(latencies, st.floats(0.1, 10))
def test_interval_scales_with_the_baseline(samples, factor):
    plain = ratio_of_medians(samples, samples[::-1])
    scaled = ratio_of_medians(factor * np.array(samples), samples[::-1])
    assert scaled.value == pytest.approx(factor * plain.value)
    assert scaled.low == pytest.approx(factor * plain.low)
    assert scaled.high == pytest.approx(factor * plain.high)


@resamples(300)
def test_interval_covers_the_truth_as_often_as_its_confidence():
    rng = np.random.default_rng(5)
    hits = 0
    for trial in range(200):
        teacher, student = 10 * rng.lognormal(0, 0.3, 60), rng.lognormal(0, 0.3, 60)  # true ratio of medians: 10
        interval = ratio_of_medians(teacher, student, seed=trial)
        hits += interval.low <= 10 <= interval.high
    assert 0.88 <= hits / 200 <= 0.99  # 95 % nominal; 200 trials have a standard error of 1.5 %


def test_blocks_widen_the_interval_when_neighbouring_rounds_are_alike():
    rng = np.random.default_rng(6)
    bursts = np.repeat(rng.lognormal(1, 0.5, 30), 10)  # ten rounds in a row are equally slow
    flat = np.full(300, 1.0)
    plain = ratio_of_medians(bursts, flat, block=1)
    blocked = ratio_of_medians(bursts, flat, block=10)
    assert blocked.high - blocked.low > 1.5 * (plain.high - plain.low)


def test_block_length_is_the_cube_root():
    assert [block_length(n) for n in (1, 8, 27, 1000)] == [1, 2, 3, 10]


@resamples(300)
def test_long_runs_are_resampled_in_bounded_chunks(monkeypatch):
    a = np.random.default_rng(7).lognormal(1, 0.3, 50)
    monkeypatch.setattr(statistics, "_INDICES_PER_CHUNK", 50 * 7)  # 7 resamples a chunk
    interval = ratio_of_medians(a, np.ones(50))
    assert interval.low < interval.value < interval.high


def test_equal_halves_are_stable():
    verdict = stability([10.0, 11.0, 10.0, 9.0, 10.0] * 4)
    assert verdict.verdict == "stable"
    assert (verdict.first_ms, verdict.second_ms, verdict.drift) == (10.0, 10.0, 0.0)


def test_a_slower_second_half_is_drifting():
    verdict = stability([10.0] * 20 + [11.0] * 20)
    assert verdict.verdict == "drifting"
    assert verdict.drift == pytest.approx(0.1)


def test_few_samples_have_no_verdict():
    assert stability([10.0] * 9).verdict == "too few samples"
    assert stability([10.0] * 9).drift is None


@resamples(100)
@pytest.mark.parametrize(("count", "known"), [(5, {"p50"}), (29, {"p50", "p90"}), (300, {"p50", "p90", "p95", "p99"})])
def test_percentiles_have_intervals_where_the_samples_are_enough(count, known):
    found = percentile_intervals(np.random.default_rng(0).lognormal(0, 0.3, count))
    assert {name for name, interval in found.items() if interval is not None} == known


@resamples(30)
@given(latencies)
def test_percentile_intervals_have_the_values_of_the_summary(samples):
    summary = summarise(samples)
    for name, interval in percentile_intervals(samples).items():
        if interval is not None:
            assert interval.value == getattr(summary, f"{name}_ms")
            assert min(samples) <= interval.low <= interval.high <= max(samples)


@resamples(200)
def test_percentile_intervals_cover_the_truth_about_as_often_as_their_confidence():
    rng, hits = np.random.default_rng(8), 0
    for trial in range(150):
        found = percentile_intervals(rng.exponential(1.0, 100) + 1e-9, seed=trial, block=1)["p90"]
        hits += found.low <= np.log(10) <= found.high  # the exponential distribution's 90th percentile
    assert 0.87 <= hits / 150 <= 1.0  # 95 % nominal; bootstrapped quantiles of skewed samples come out a little narrow


def test_runs_of_different_length_are_compared_by_their_medians():
    found = ratio_of_runs([10.0] * 20, [12.0] * 35)
    assert (found.value, found.low, found.high) == (1.2, 1.2, 1.2)


@resamples(20)
@given(latencies, latencies)
def test_swapping_two_runs_inverts_their_ratio(a, b):
    forth, back = ratio_of_runs(a, b), ratio_of_runs(b, a)
    assert forth.value * back.value == pytest.approx(1.0)
    assert forth.low <= forth.high


def test_slow_rounds_do_not_cancel_between_runs():
    load = np.random.default_rng(9).uniform(1, 10, 100)
    apart, together = ratio_of_runs(8 * load, 2 * load), ratio_of_medians(2 * load, 8 * load)
    assert apart.value == pytest.approx(together.value)
    assert apart.high - apart.low > 0.05 > together.high - together.low


def test_widening_moves_both_bounds_and_not_the_value():
    found = widened(ratio_of_runs([10.0] * 9, [10.0] * 9), 0.25)
    assert (found.value, found.low, found.high) == (1.0, 0.8, 1.25)
