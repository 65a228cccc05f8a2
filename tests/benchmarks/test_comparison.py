"""Comparisons of two runs on samples with known answers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dcp_deploy.benchmarks import Candidate, benchmark
from dcp_deploy.benchmarks.comparison import FASTER, SAME, SLOWER, BenchRun, compare_runs, read_run
from dcp_deploy.errors import CorruptFileError, InputError, QualityError
from dcp_deploy.files import write_json

MACHINE = {"cpu": "Some CPU", "usable_cores": 2, "cpu_quota": None, "gpu": None, "packages": {"torch": "2.6"}}


def run(samples, *, labels=None, machine=None, **settings):
    """Return a run of one candidate, or of several by name."""
    named = samples if isinstance(samples, dict) else {"student": samples}
    rows = [{"name": name, "labels": labels or {}, "samples_ms": list(values)} for name, values in named.items()]
    return BenchRun.model_validate(
        {"batch": 1, "rows": rows, "environment": {**MACHINE, **(machine or {})}, **settings}
    )


def noisy(median, count=60, spread=0.02, seed=0):
    return median * np.random.default_rng(seed).lognormal(0, spread, count)


def verdict(a, b):
    (row,) = compare_runs(a, b).rows
    return row.verdict


def test_clear_differences_are_shown():
    assert verdict(run(noisy(10)), run(noisy(12, seed=1))) == SLOWER
    assert verdict(run(noisy(12)), run(noisy(10, seed=1))) == FASTER


def test_noise_is_not_a_difference():
    falsely = sum(
        verdict(run(noisy(10, seed=seed)), run(noisy(10, seed=1000 + seed))) in (FASTER, SLOWER) for seed in range(60)
    )
    assert falsely <= 3  # 5 % nominal, less with the widening by the drift


def test_a_run_does_not_differ_from_itself():
    same = run(noisy(7))
    (row,) = compare_runs(same, same).rows
    assert row.verdict == SAME and row.ratio.value == 1.0


def test_the_interval_is_widened_by_the_drift_inside_a_run():
    steady, drifting = [10.0] * 40, [10.0] * 20 + [10.4] * 20  # 4 %: within what counts as stable
    (row,) = compare_runs(run(steady), run(drifting)).rows
    assert row.verdict == SAME
    assert row.ratio.low <= 1 / 1.04 + 1e-9 and row.ratio.high >= 1.04


@pytest.mark.parametrize(
    ("a", "b", "expected", "reason"),
    [
        ([10.0] * 20 + [12.0] * 20, [10.0] * 40, "unstable", "the halves of A differ by +20.0%"),
        ([10.0] * 40, [10.0] * 20 + [8.0] * 20, "unstable", "the halves of B differ by -20.0%"),
        ([10.0] * 40, [20.0] * 6, "too few samples", "in B"),
    ],
)
def test_unstable_and_short_runs_get_no_verdict(a, b, expected, reason):
    (row,) = compare_runs(run(a), run(b)).rows
    assert (row.verdict, row.reason, row.judged) == (expected, reason, False)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"machine": {"cpu": "Other CPU"}}, "cpu: Some CPU, then Other CPU"),
        ({"machine": {"usable_cores": 4}}, "usable_cores: 2, then 4"),
        ({"batch": 8}, "batch: 1, then 8"),
        ({"mode": "offline"}, "mode: latency, then offline"),
        ({"labels": {"threads": 2}}, "threads: 1, then 2"),
    ],
)
def test_runs_under_different_conditions_are_not_compared(change, reason):
    a, b = run([10.0] * 40, labels={"threads": 1}), run([20.0] * 40, **{"labels": {"threads": 1}, **change})
    (row,) = compare_runs(a, b).rows
    assert (row.verdict, row.reason) == ("not comparable", reason)


def test_calls_of_one_turn_are_drawn_together():
    """32 calls per turn differ from turn to turn; drawn singly, they would make the interval too narrow."""
    turns = [np.repeat(np.random.default_rng(seed).lognormal(0, 0.1, 20), 32) for seed in (0, 1)]

    def width(mode):
        (row,) = compare_runs(*(run(10 * samples, mode=mode) for samples in turns)).rows
        return row.ratio.high - row.ratio.low

    assert width("single-stream") > 1.2 * width("latency")


def test_candidates_of_one_run_only_and_changed_versions_are_remarks():
    a = run({"old": [1.0] * 20, "both": [1.0] * 20}, notes=["Other load: some."])
    b = run({"both": [1.0] * 20, "new": [1.0] * 20}, machine={"packages": {"torch": "2.7"}})
    compared = compare_runs(a, b)
    assert [row.name for row in compared.rows] == ["both"]
    assert compared.remarks() == [
        "Only in A: old.", "Only in B: new.", "Changed between the runs: torch: 2.6, then 2.7.", "A: Other load: some.",
    ]  # fmt: skip


def test_the_gate_passes_when_the_whole_interval_is_within_the_limit():
    compare_runs(run(noisy(10)), run(noisy(10.1, seed=1))).raise_above(1.1)


@pytest.mark.parametrize(
    ("b", "words"),
    [
        (run(noisy(12, seed=1)), "is above 1.05"),
        (run(noisy(10.3, spread=0.3, seed=2)), "1.05|unstable"),
        (run([10.0] * 20 + [12.0] * 20), "unstable"),
        (run(noisy(10), machine={"gpu": "A GPU"}), "not comparable"),
        (run({"other": noisy(10)}), "student is missing in B"),
    ],
)
def test_the_gate_fails_when_the_limit_is_not_shown_to_hold(b, words):
    with pytest.raises(QualityError, match=words) as raised:
        compare_runs(run(noisy(10)), b).raise_above(1.05)
    assert raised.value.exit_code == 5


def test_a_limit_inside_the_interval_is_not_shown_to_hold():
    compared = compare_runs(run(noisy(10, spread=0.1)), run(noisy(10.2, spread=0.1, seed=3)))
    (row,) = compared.rows
    assert row.judged and row.ratio.low < 1.03 < row.ratio.high
    with pytest.raises(QualityError, match=r"reaches above 1\.03"):
        compared.raise_above(1.03)


def test_json_markdown_and_table_agree():
    compared = compare_runs(run(noisy(10)), run(noisy(12, seed=1)))
    assert json.loads(json.dumps(compared.to_dict(), allow_nan=False))["rows"][0]["verdict"] == SLOWER
    assert "| student | " in compared.to_markdown() and SLOWER in compared.to_markdown()
    assert compared.to_table().row_count == 1


def test_a_written_run_is_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"schema": 1, **run([1.0, 2.0]).model_dump(), "else": 1}))
    assert read_run(path).rows[0].samples_ms == [1.0, 2.0]


def test_documents_of_the_harness_are_read_and_compared(tmp_path):
    def written(name, milliseconds):
        now = [0.0]

        def call():
            now[0] += milliseconds / 1e3

        report = benchmark(
            {"student": Candidate(call, "student", "torch", threads=1)}, baseline="student", warmup_calls=1,
            warmup_seconds=0, min_rounds=12, min_seconds=0, clock=lambda: now[0], sleep=lambda _: None,
        )  # fmt: skip
        write_json(tmp_path / name, report.to_dict())
        return read_run(tmp_path / name)

    a, b = written("a.json", 5.0), written("b.json", 4.0)
    (row,) = compare_runs(a, b).rows
    assert (row.verdict, row.ratio.value) == (FASTER, pytest.approx(0.8))
    assert compare_runs(a, a).rows[0].verdict == SAME


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "the whole"),
        ('{"schema": 1, "models": {}}', r"does not hold the timings of bench \(batch: missing\)"),
        ('{"batch": 1, "rows": []}', "rows"),
        ('{"batch": 1, "rows": [{"name": "a", "samples_ms": [0]}]}', r"rows\.0\.samples_ms\.0"),
        ('{"batch": 1, "rows": [{"name": "a", "samples_ms": [NaN]}]}', "holds NaN"),
    ],
)
def test_other_json_than_a_benchmark_is_refused(tmp_path, text, words):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(CorruptFileError, match=words):
        read_run(path)


def test_a_file_that_is_not_text_is_refused_in_words(tmp_path):
    path = tmp_path / "student.onnx"
    path.write_bytes(b"\xd0\x00\xff")
    with pytest.raises(CorruptFileError, match=r"student\.onnx is not JSON\n"):
        read_run(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        read_run(tmp_path / "none.json")
