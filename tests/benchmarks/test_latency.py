"""The harness with a clock that only the candidates advance, so that no test measures time."""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from dcp_deploy.benchmarks import Candidate, Skipped, benchmark, capture_environment, latency
from dcp_deploy.benchmarks.candidates.candidate import ColdStart, Memory, Phases
from dcp_deploy.benchmarks.machine.roofline import Ceiling, Work
from dcp_deploy.errors import UsageError


class Machine:
    """A clock, and candidates that advance it by a known time and record their calls."""

    def __init__(self):
        self.now = 100.0
        self.calls = []
        self.pauses = 0

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.pauses += 1
        self.now += seconds

    def candidate(self, name, milliseconds, result=None):
        costs = iter(milliseconds) if hasattr(milliseconds, "__iter__") else None

        def run():
            self.calls.append(name)
            self.now += (next(costs) if costs else milliseconds) / 1e3
            return result

        return run

    def benchmark(self, candidates, **settings):
        settings = {"warmup_calls": 2, "warmup_seconds": 0, "min_rounds": 12, "min_seconds": 0, **settings}
        return benchmark(candidates, clock=self.clock, sleep=self.sleep, **settings)


def test_every_round_calls_every_candidate_once():
    machine = Machine()
    machine.benchmark({name: machine.candidate(name, 1) for name in "abc"}, baseline="a")
    warmup, measured = machine.calls[:6], machine.calls[6:]
    assert warmup == ["a", "a", "b", "b", "c", "c"]
    rounds = [measured[i : i + 3] for i in range(0, len(measured), 3)]
    assert len(rounds) == 12
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)


def test_the_order_changes_between_rounds():
    machine = Machine()
    machine.benchmark({name: machine.candidate(name, 1) for name in "ab"}, baseline="a", min_rounds=100)
    firsts = Counter(machine.calls[4::2])
    assert 30 <= firsts["a"] <= 70  # 100 fair draws: 50 with a standard deviation of 5


def test_the_order_depends_on_the_seed_only():
    def order(seed):
        machine = Machine()
        machine.benchmark({name: machine.candidate(name, 1) for name in "abc"}, baseline="a", seed=seed)
        return machine.calls

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_samples_are_the_times_of_calls_in_the_order_of_rounds():
    machine = Machine()
    costs = [50, 50, *range(1, 13)]  # two calls of warm-up, then 1 to 12 ms
    report = machine.benchmark({"a": machine.candidate("a", costs), "b": machine.candidate("b", 7)}, baseline="a")
    assert report.row("a").samples_ms == pytest.approx(range(1, 13))
    assert report.row("b").samples_ms == pytest.approx([7] * 12)


def test_the_pause_comes_before_every_timed_call_and_is_not_timed():
    machine = Machine()
    report = machine.benchmark({"a": machine.candidate("a", 2)}, baseline="a", pause_seconds=0.5)
    assert machine.pauses == 12
    assert report.row("a").summary.max_ms == pytest.approx(2)


def test_warm_up_reaches_both_its_calls_and_its_seconds():
    machine = Machine()
    candidates = {"fast": machine.candidate("fast", 125), "slow": machine.candidate("slow", 500)}
    report = machine.benchmark(candidates, baseline="slow", warmup_calls=3, warmup_seconds=1.0)
    assert {row.name: row.warmup_calls for row in report.rows} == {"fast": 8, "slow": 3}


def test_rounds_go_on_until_enough_seconds_have_passed():
    machine = Machine()
    report = machine.benchmark({"a": machine.candidate("a", 125)}, baseline="a", min_seconds=4, pause_seconds=0)
    assert report.method.rounds == 32
    assert report.method.seconds == pytest.approx(4)


def test_speedup_is_over_the_baseline():
    machine = Machine()
    candidates = {"teacher": machine.candidate("teacher", 80), "student": machine.candidate("student", 10)}
    report = machine.benchmark(candidates, baseline="teacher")
    assert report.row("teacher").speedup is None
    assert report.row("student").speedup.value == pytest.approx(8)


def test_images_per_second_counts_the_batch():
    machine = Machine()
    images = np.zeros((8, 4, 4, 3), np.uint8)
    report = machine.benchmark({"a": machine.candidate("a", 20, images)}, baseline="a", batch=8)
    assert report.row("a").images_per_second == pytest.approx(400)


def test_another_number_of_images_than_the_batch_is_refused():
    machine = Machine()
    images = np.zeros((1, 4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="a returned 1 images per call, but batch is 8"):
        machine.benchmark({"a": machine.candidate("a", 20, images)}, baseline="a", batch=8)


def test_drift_is_noted():
    machine = Machine()
    report = machine.benchmark(
        {"a": machine.candidate("a", [1, 1] + [10] * 10 + [12] * 10)}, baseline="a", min_rounds=20
    )
    assert not report.stable
    assert any("a (+20.0%)" in note for note in report.notes)


@pytest.mark.parametrize(("milliseconds", "stable"), [(20, True), (2, False)])
def test_drift_of_an_extra_counts_only_if_it_is_the_fastest(milliseconds, stable):
    found = {}
    for extras in ((), ("b",)):
        machine = Machine()
        drifting = [1, 1] + [milliseconds] * 10 + [1.2 * milliseconds] * 10
        candidates = {"a": machine.candidate("a", 5), "b": machine.candidate("b", drifting)}
        found[extras] = machine.benchmark(candidates, baseline="a", min_rounds=20, extras=extras).stable
    assert found == {(): False, ("b",): stable}


@pytest.mark.parametrize(("others", "noted"), [(None, False), (0.1, False), (1.4, True)])
def test_other_load_is_noted_when_it_is_more_than_a_tenth_of_the_cores(monkeypatch, others, noted):
    monkeypatch.setattr(latency.LoadMeter, "others", lambda meter: others)
    monkeypatch.setattr(latency, "capture_environment", lambda: replace(capture_environment(), usable_cores=2))
    machine = Machine()
    report = machine.benchmark({"a": machine.candidate("a", 5)}, baseline="a")
    assert report.other_load == others
    assert ("other processes took 1.4 of 2 cores" in report.unstable_because) == noted
    assert report.stable != noted
    assert any("Unstable, measure again: other processes" in note for note in report.notes) == noted


def test_load_as_the_cause_comes_before_the_drift_that_it_made(monkeypatch):
    monkeypatch.setattr(latency.LoadMeter, "others", lambda meter: 1.4)
    monkeypatch.setattr(latency, "capture_environment", lambda: replace(capture_environment(), usable_cores=2))
    machine = Machine()
    drifting = machine.candidate("a", [1, 1] + [10] * 10 + [12] * 10)
    first, second = machine.benchmark({"a": drifting}, baseline="a", min_rounds=20).unstable_because
    assert first == "other processes took 1.4 of 2 cores" and "a (+20.0%)" in second


@pytest.mark.parametrize(("others", "patient", "rounds"), [(1.4, False, 4), (1.4, True, 12), (0.1, False, 12)])
def test_an_impatient_run_on_shared_cores_ends_when_its_seconds_are_over(monkeypatch, others, patient, rounds):
    monkeypatch.setattr(latency.LoadMeter, "others", lambda meter: others)
    monkeypatch.setattr(latency, "capture_environment", lambda: replace(capture_environment(), usable_cores=2))
    machine = Machine()
    report = machine.benchmark(
        {"a": machine.candidate("a", 10)}, baseline="a", min_seconds=0.039, pause_seconds=0, patient=patient
    )
    assert report.method.rounds == rounds
    assert report.stable == (others < 1)


def test_an_unstable_run_shows_no_speedup(monkeypatch):
    machine = Machine()
    candidates = {"teacher": machine.candidate("teacher", 80), "student": machine.candidate("student", 10)}
    report = machine.benchmark(candidates, baseline="teacher")
    assert "8.00" in report.to_markdown()
    shared = replace(report, unstable_because=("other processes took 1.4 of 2 cores",))
    assert "8.00" not in shared.to_markdown()
    assert "unstable, measure again" in shared.to_markdown()
    assert shared.to_dict()["rows"][1]["speedup"]["value"] == pytest.approx(8)  # the document keeps what was measured


def test_an_indicative_p99_is_noted_and_marked():
    machine = Machine()
    report = machine.benchmark({"a": machine.candidate("a", 5)}, baseline="a", min_rounds=298)
    assert any("298 samples, and a bound on it needs 299" in note for note in report.notes)
    assert "~5.00" in report.to_markdown()


def test_enough_samples_leave_p99_unmarked():
    machine = Machine()
    report = machine.benchmark({"a": machine.candidate("a", 5)}, baseline="a", min_rounds=299)
    assert "~" not in report.to_markdown()


def test_progress_ends_at_a_hundred_percent_and_never_falls():
    machine, percents = Machine(), []
    machine.benchmark(
        {"a": machine.candidate("a", 100)},
        baseline="a",
        min_seconds=3,
        progress=lambda done, total: percents.append((done, total)),
    )
    assert percents == sorted(percents)
    assert percents[-1] == (100, 100)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"baseline": "teacher"}, "no candidate is named 'teacher'"),
        ({"baseline": "a", "batch": 0}, "batch is 0"),
        ({"baseline": "a", "min_rounds": 0}, "rounds is 0"),
        ({"baseline": "a", "pause_seconds": -1}, "pause is -1"),
    ],
)
def test_settings_that_measure_nothing_are_refused(settings, message):
    machine = Machine()
    with pytest.raises(UsageError, match=message):
        machine.benchmark({"a": machine.candidate("a", 1)}, **settings)
    assert machine.calls == []


def test_the_document_is_json_with_samples_method_and_machine():
    machine = Machine()
    candidate = Candidate(machine.candidate("a", 3), "student", "onnxruntime", threads=2, file_bytes=10)
    document = machine.benchmark({"student, ONNX": candidate, "b": machine.candidate("b", 6)}, baseline="b").to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert (document["schema"], document["baseline"], document["batch"]) == (1, "b", 1)
    row = document["rows"][0]
    assert row["labels"] == {
        "model": "student", "backend": "onnxruntime", "precision": "fp32", "threads": 2, "file_bytes": 10,
        "file": None, "device": "cpu", "build_seconds": None, "isolated": False,
    }  # fmt: skip
    assert row["samples_ms"] == [3.0] * 12
    assert row["speedup"]["value"] == pytest.approx(2)
    assert document["method"]["rounds"] == 12
    assert document["environment"]["python"]


def test_tables_show_names_without_markup():
    from rich.console import Console

    machine = Machine()
    name = "a|[red]b[/red]"
    report = machine.benchmark({name: machine.candidate("a", 3)}, baseline=name)
    terminal = io.StringIO()
    Console(width=200, file=terminal).print(*report.to_tables())
    assert name in terminal.getvalue()
    assert r"a\|[red]b[/red]" in report.to_markdown()


def test_candidates_may_have_their_own_batch_and_baseline():
    machine = Machine()

    def made(name, milliseconds, batch, baseline):
        images = np.zeros((batch, 2, 2, 3), np.uint8)
        return Candidate(machine.candidate(name, milliseconds, images), name, "torch", batch=batch, baseline=baseline)

    candidates = {
        "t1": made("t1", 10, 1, "t1"), "s1": made("s1", 5, 1, "t1"),
        "t8": made("t8", 40, 8, "t8"), "s8": made("s8", 8, 8, "t8"),
    }  # fmt: skip
    report = machine.benchmark(candidates, baseline="t1")
    assert {row.name: row.speedup and round(row.speedup.value, 3) for row in report.rows} == {
        "t1": None, "s1": 2.0, "t8": None, "s8": 5.0,
    }  # fmt: skip
    assert report.row("s8").images_per_second == pytest.approx(1000)
    assert "batch 1, 8" in report.to_markdown()


def test_ceilings_are_timed_between_rounds_and_give_the_floor():
    machine = Machine()
    ceilings = [
        Ceiling("mm", "cpu", "compute", "fp32", machine.candidate("mm", 10), 1e9),
        Ceiling("copy", "cpu", "memory", "", machine.candidate("copy", 1), 1e6),
    ]
    candidate = Candidate(machine.candidate("a", 20), "student", "torch", work=Work(5 * 10**8, 1000, 2000))
    report = machine.benchmark({"a": candidate}, baseline="a", ceilings=ceilings, min_rounds=11)
    assert machine.calls.count("mm") == 1 + 3  # warm-up, then rounds 0, 5 and 10
    assert [rate.per_second for rate in report.ceilings] == [pytest.approx(1e11), pytest.approx(1e9)]
    roof = report.row("a").roofline
    assert (roof.floor_ms, roof.of_floor, roof.bound) == (pytest.approx(5), pytest.approx(4), "compute")
    assert "4.0 (compute)" in report.to_markdown()


def test_a_candidate_may_measure_its_own_time_phases_and_memory():
    machine = Machine()
    candidate = Candidate(
        machine.candidate("a", 20), "student", "cuda-fp16", device="cuda", measure=lambda: 1.5,
        phases=lambda: Phases(0.1, 1.0, 0.2, 0.95), memory=lambda: Memory(3_000_000, None),
        cold_start=ColdStart(100.0, 2000.0, 400.0),
    )  # fmt: skip
    report = machine.benchmark({"a": candidate}, baseline="a")
    row = report.row("a")
    assert row.samples_ms == (1.5,) * 12
    assert row.phases == Phases(0.1, 1.0, 0.2, 0.95)
    assert any(note.startswith("Enqueue-bound: ") for note in report.notes)
    document = row.to_dict()
    assert document["memory"] == {"host_bytes": 3_000_000, "device_bytes": None}
    assert document["cold_start"] == {"start_ms": 100.0, "load_ms": 2000.0, "first_ms": 400.0}
    assert "0.100 + 1.000 + 0.200" in report.to_markdown() and "| 2.50 |" in report.to_markdown()


def test_unmeasured_figures_are_null_and_in_no_table():
    machine = Machine()
    report = machine.benchmark({"a": machine.candidate("a", 20)}, baseline="a")
    row = report.to_dict()["rows"][0]
    assert row["phases"] is row["cold_start"] is row["memory"] is row["roofline"] is None
    assert "floor" not in report.to_markdown()


def test_skipped_candidates_are_reported_with_the_reason():
    machine = Machine()
    report = machine.benchmark({"a": machine.candidate("a", 20)}, baseline="a", skipped=[Skipped("b", "no GPU")])
    assert report.to_dict()["skipped"] == [{"name": "b", "reason": "no GPU"}]
    assert "- Skipped: b: no GPU" in report.to_markdown()


def test_offline_calls_follow_each_other_and_the_rate_is_over_all_of_them():
    machine = Machine()
    costs = [10.0, 10.0, *([10.0, 30.0] * 8)]  # two calls of warm-up, two rounds of eight
    candidates = {"a": machine.candidate("a", costs)}
    report = machine.benchmark(candidates, baseline="a", batch=4, mode="offline", min_rounds=2)
    assert machine.pauses == 0 and report.row("a").summary.count == 16
    assert report.row("a").images_per_second == pytest.approx(4 / 0.020)  # the mean, not the median
    assert "not conformant" in report.to_tables()[0].title and "not conformant" in report.to_markdown()
    assert report.to_dict()["mode"] == "offline" and "not conformant" in report.to_dict()["notes"][0]


def test_turns_stay_together_in_the_bootstrap():
    machine = Machine()
    costs = {"a": [5.0] * 2 + ([10.0] * 32 + [20.0] * 32) * 2, "b": [1.0] * 130}
    candidates = {name: machine.candidate(name, cost) for name, cost in costs.items()}
    report = machine.benchmark(candidates, baseline="a", mode="single-stream", min_rounds=4)
    interval = report.row("b").speedup
    assert (interval.low, interval.high) == (pytest.approx(10), pytest.approx(20))  # whole turns are drawn


@pytest.mark.parametrize(
    ("settings", "message"), [({"mode": "server"}, "'server'"), ({"mode": "single-stream", "batch": 2}, "not 2")]
)
def test_unknown_modes_and_impossible_batches_are_refused(settings, message):
    machine = Machine()
    with pytest.raises(UsageError, match=message):
        machine.benchmark({"a": machine.candidate("a", 1)}, baseline="a", **settings)
