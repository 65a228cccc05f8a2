"""The largest batch that keeps a latency bound."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from dcp_deploy.benchmarks import benchmark
from dcp_deploy.benchmarks.candidates.candidate import Candidate
from dcp_deploy.benchmarks.results import within_bound
from dcp_deploy.errors import UsageError


@pytest.fixture(scope="module")
def report():
    """A student at three batches; a call takes 5 ms times the square root of its batch."""
    now = [0.0]

    def candidate(batch):
        def run():
            now[0] += 5e-3 * batch**0.5

        return Candidate(run, "student", "onnxruntime", batch=batch)

    candidates = {f"student, ONNX Runtime, batch {batch}": candidate(batch) for batch in (1, 4, 16)}
    return benchmark(
        candidates, baseline="student, ONNX Runtime, batch 1", warmup_calls=1, warmup_seconds=0, min_rounds=12,
        min_seconds=0, clock=lambda: now[0], sleep=lambda _: None,
    )  # fmt: skip


def test_the_largest_batch_within_the_bound_is_reported_with_its_rate(report):
    bounded = within_bound(report, 15.0)
    (found,) = bounded.capacity
    assert (found.name, found.bound_ms, found.batch) == ("student, ONNX Runtime", 15.0, 4)
    assert (found.p99_ms, found.images_per_second) == (pytest.approx(10.0), pytest.approx(400))
    assert found.indicative
    assert "| student, ONNX Runtime | 15 | 4 | ~10.00 | 400.0 |" in bounded.to_markdown()


def test_without_a_batch_within_the_bound_the_document_holds_null_and_the_table_none(report):
    bounded = within_bound(report, 1.0)
    document = json.loads(json.dumps(bounded.to_dict(), allow_nan=False))
    assert document["capacity"] == [{
        "name": "student, ONNX Runtime", "bound_ms": 1.0, "batch": None, "p99_ms": None, "images_per_second": None,
        "requests_per_second": None, "indicative": True,
    }]  # fmt: skip
    assert "| none |" in bounded.to_markdown()
    assert "p99 bound" not in replace(bounded, capacity=()).to_markdown()


@pytest.mark.parametrize("bound", [0.0, -1.0, math.inf, math.nan])
def test_a_bound_that_is_not_positive_and_finite_is_refused(report, bound):
    with pytest.raises(UsageError, match="the latency bound is"):
        within_bound(report, bound)
