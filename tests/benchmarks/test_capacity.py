"""Rates under a bound, against queues whose answer has a formula."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcp_deploy.benchmarks import benchmark
from dcp_deploy.benchmarks.candidates.candidate import Candidate
from dcp_deploy.benchmarks.capacity import largest_rate, sojourns, within_bound
from dcp_deploy.errors import UsageError


def test_constant_service_waits_as_long_as_pollaczek_and_khinchine_say():
    service, load = 10.0, 0.6  # mean wait of M/D/1: load x service / (2 (1 - load))
    waited = sojourns({1: np.array([service])}, 1e3 * load / service, seed=0, requests=60_000)
    assert waited.mean() - service == pytest.approx(load * service / (2 * (1 - load)), rel=0.05)


def test_the_largest_rate_is_that_of_a_queue_with_exponential_service():
    service = np.quantile(np.random.default_rng(1).exponential(10.0, 200_000), np.linspace(0.0005, 0.9995, 1000))
    bound = 150.0  # M/M/1: the sojourn is exponential with rate 1/service - arrivals, so p99 = ln 100 / that
    expected = 1e3 * (1 / service.mean() - math.log(100) / bound)
    assert largest_rate({1: service}, bound, requests=8000) == pytest.approx(expected, rel=0.1)  # 76 tail samples


def test_an_idle_server_answers_in_its_service_time():
    waited = sojourns({1: np.array([5.0])}, rate=0.001, seed=0, requests=50)
    assert waited == pytest.approx(np.full(50, 5.0))


def test_what_waits_is_drawn_together_so_batches_raise_the_rate():
    alone = largest_rate({1: np.array([10.0])}, 60.0)
    batched = largest_rate({1: np.array([10.0]), 8: np.array([20.0])}, 60.0)
    assert batched > 2.5 * alone


def test_a_bound_below_the_service_time_allows_no_rate():
    assert largest_rate({1: np.array([10.0])}, 9.0) is None


@given(st.lists(st.floats(0.5, 50.0), min_size=1, max_size=8), st.floats(1.0, 400.0), st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_nobody_is_served_faster_than_a_call(samples, rate, seed):
    waited = sojourns({2: np.array(samples)}, rate, seed=seed, requests=60)
    assert (waited >= min(samples) - 1e-6).all()


@given(st.floats(15.0, 100.0), st.floats(1.1, 3.0))
@settings(max_examples=4, deadline=None)
def test_a_looser_bound_never_lowers_the_rate(bound, factor):
    times = {1: np.array([8.0, 10.0, 12.0])}
    rates = [largest_rate(times, limit, requests=600) for limit in (bound, factor * bound)]
    assert rates[0] <= rates[1]


def report():
    now = [0.0]

    def made(batch, milliseconds):
        def run():
            now[0] += milliseconds / 1e3

        return Candidate(run, "student", "onnxruntime", batch=batch)

    candidates = {f"student, ONNX Runtime, batch {batch}": made(batch, 5.0 * batch**0.5) for batch in (1, 4, 16)}
    return benchmark(
        candidates, baseline="student, ONNX Runtime, batch 1", warmup_calls=1, warmup_seconds=0, min_rounds=12,
        min_seconds=0, clock=lambda: now[0], sleep=lambda _: None,
    )  # fmt: skip


def test_the_largest_batch_within_the_bound_is_told_with_its_rate():
    (found,) = within_bound(report(), 15.0).capacity
    assert (found.name, found.batch, found.p99_ms) == ("student, ONNX Runtime", 4, pytest.approx(10.0))
    assert found.images_per_second == pytest.approx(400)
    assert 0 < found.requests_per_second < 400
    assert found.indicative


def test_nothing_within_the_bound_is_none_in_every_form():
    bounded = within_bound(report(), 1.0)
    document = json.loads(json.dumps(bounded.to_dict(), allow_nan=False))
    assert document["capacity"][0]["batch"] is document["capacity"][0]["requests_per_second"] is None
    assert "| none |" in bounded.to_markdown()
    assert replace(bounded, capacity=()).to_markdown().count("requests/s") == 0


@pytest.mark.parametrize("bound", [0.0, -1.0, math.inf, math.nan])
def test_a_bound_that_is_none_is_refused(bound):
    with pytest.raises(UsageError, match="the bound is"):
        within_bound(report(), bound)
