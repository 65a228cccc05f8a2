"""The verdict and the large figures of the page."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dcp_deploy.report.headline import cards, fastest_student, same_backend_speedup, verdict
from dcp_deploy.report.run_directory import Bench, BenchRow, Metrics, Run, RunDirectory, Steadiness


def rows(*entries):
    """(model, backend, p50, speedup or None) each."""
    return [
        BenchRow(
            name=f"{model}, {backend}",
            labels={"model": model, "backend": backend},
            p50_ms=p50,
            speedup=None if speedup is None else {"value": speedup, "low": speedup - 1, "high": speedup + 1},
        )
        for model, backend, p50, speedup in entries
    ]


def run_with(*entries):
    return RunDirectory(run=Run(), bench=Bench(baseline="teacher, torch", rows=rows(*entries)))


FOUR = (
    ("teacher", "torch", 80.0, None),
    ("student", "torch", 40.0, 2.0),
    ("teacher", "onnxruntime", 24.0, 80 / 24),
    ("student", "onnxruntime", 8.0, 10.0),
)


def test_the_fastest_student_makes_the_headline():
    assert fastest_student(run_with(*FOUR)).name == "student, onnxruntime"
    assert cards(run_with(*FOUR))[0].value == "10.0×"


def test_the_verdict_also_says_what_compression_alone_gained():
    words = verdict(run_with(*FOUR))
    assert "10.0× as fast as its teacher (student, onnxruntime against teacher, torch; 3.00× with both" in words


def test_the_same_backend_speedup_needs_a_teacher_on_that_backend():
    run = run_with(FOUR[0], FOUR[3])
    assert same_backend_speedup(run, fastest_student(run)) is None
    assert "with both" not in verdict(run)


def test_an_unstable_run_has_reasons_where_the_speedup_would_stand():
    run = run_with(*FOUR)
    run = replace(run, bench=run.bench.model_copy(update={"unstable_because": ["other processes took 2 of 2 cores"]}))
    assert verdict(run).startswith("Speed: unstable, measure again (other processes took 2 of 2 cores).")
    card = cards(run)[0]
    assert (card.value, card.detail, card.tone) == (
        "unstable, measure again", "other processes took 2 of 2 cores", "bad"
    )  # fmt: skip


@pytest.mark.parametrize("drifting", [None, "student, onnxruntime", "teacher, torch"])
def test_a_drift_in_a_run_of_an_older_version_makes_it_unstable(drifting):
    run = run_with(*FOUR)
    measured = [
        row.model_copy(update={"stability": Steadiness(verdict="drifting" if row.name == drifting else "stable")})
        for row in run.bench_rows
    ]
    run = replace(run, bench=run.bench.model_copy(update={"rows": measured}))
    assert (drifting or "as fast as its teacher") in verdict(run)
    assert ("unstable, measure again" in verdict(run)) == (drifting is not None)


def test_a_fast_teacher_is_not_taken_for_a_student():
    assert fastest_student(run_with(*FOUR[::2])) is None


def test_quality_is_named_with_its_feature_space():
    models = {"teacher": {"fid": 6.31}, "student": {"fid": 9.84, "features": "avatars"}}
    run = RunDirectory(run=Run(), metrics=Metrics.model_validate({"models": models}))
    assert verdict(run).endswith("FID 9.84, its teacher's 6.31 (avatars features).")


def test_a_run_without_measurements_has_cards_without_values():
    run = RunDirectory(run=Run())
    assert verdict(run) == "Speed: not measured. Parity of the exported file: not measured. Quality: not measured."
    assert all(card.value is None for card in cards(run))
