"""The verdict and the large figures of the page."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dcp_deploy.report.headline import cards, fastest_student, gate, same_backend, trait, verdict
from dcp_deploy.report.judgement import quality_tone
from dcp_deploy.report.run_directory import Bench, BenchRow, Gates, Metrics, Run, RunDirectory, Steadiness


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


def card_of(run, label):
    return next(card for card in cards(run) if card.label == label)


def with_quality(teacher, student):
    models = {"teacher": teacher, "student": {"features": "avatars", **student}}
    return RunDirectory(run=Run(), metrics=Metrics.model_validate({"models": models}))


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
    assert (card_of(run_with(*FOUR), "speedup").value, card_of(run_with(*FOUR), "speedup").tone) == ("10.0×", "good")


def test_a_student_slower_than_its_teacher_is_bad():
    assert card_of(run_with(FOUR[0], ("student", "torch", 100.0, 0.8)), "speedup").tone == "bad"


def test_the_verdict_also_says_what_compression_alone_gained():
    words = verdict(run_with(*FOUR))
    assert (
        "10.0× as fast as its teacher (student, onnxruntime against teacher, torch; 3.00× with both in onnxruntime)"
        in words
    )


def test_the_same_backend_speedup_needs_a_teacher_on_that_backend():
    run = run_with(FOUR[0], FOUR[3])
    assert same_backend(run) is None
    assert "with both" not in verdict(run)


def test_the_same_backend_is_the_fastest_that_ran_both():
    run = run_with(*FOUR, ("student", "openvino", 5.0, 16.0))
    assert "16.0× as fast as its teacher (student, openvino against teacher, torch; 3.00× with both in" in verdict(run)


@pytest.mark.parametrize(
    ("failing", "expected"),
    [([], "openvino"), (["openvino"], "onnxruntime"), (["openvino", "onnxruntime"], "torch")],
)
def test_a_backend_with_other_images_makes_no_headline(failing, expected):
    run = run_with(*FOUR, ("student", "openvino", 5.0, 16.0))
    tried = [{"name": f"student, {name}", "passed": name not in failing} for name in ("openvino", "onnxruntime")]
    bench = Bench.model_validate({**run.bench.model_dump(), "fastest": {"tried": tried}})
    run = replace(run, bench=bench)
    assert fastest_student(run).name == f"student, {expected}"
    likewise = same_backend(run)
    assert (likewise.name, likewise.speedup) == (("torch", 2.0) if len(failing) == 2 else ("onnxruntime", 3.0))


def test_an_unstable_run_has_reasons_where_the_speedup_would_stand():
    run = run_with(*FOUR)
    run = replace(run, bench=run.bench.model_copy(update={"unstable_because": ["other processes took 2 of 2 cores"]}))
    assert verdict(run).startswith("Speed: unstable, measure again (other processes took 2 of 2 cores).")
    card = card_of(run, "speedup")
    assert (card.value, card.detail, card.tone) == (
        "unstable, measure again", "other processes took 2 of 2 cores", "warn"
    )  # fmt: skip


def test_of_several_reasons_the_headline_has_the_first():
    run = run_with(*FOUR)
    run = replace(run, bench=run.bench.model_copy(update={"unstable_because": ["load", "drift", "spread"]}))
    assert card_of(run, "speedup").detail == "load, and 2 more below"
    assert verdict(run).startswith("Speed: unstable, measure again (load, and 2 more below).")


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
    run = with_quality({"fid": 6.31}, {"fid": 9.84})
    assert verdict(run).endswith("FID 9.84, its teacher's 6.31: worse (in the demo's own features, not Inception's).")
    assert card_of(run, "FID").meaning == (
        "distance to the real images in the demo's own features, not Inception's; lower is better"
    )
    assert card_of(run, "mode coverage").meaning == "share of the data's modes that still appear; higher is better"


def test_the_verdict_names_the_traits_that_the_student_lost():
    run = with_quality({"fid": 1.0}, {"fid": 2.0, "rare": {"hair_style=bald": 0.5, "hat=top_hat": 0.9, "beard": None}})
    assert verdict(run).endswith("Too rare in its images: hair style: bald.")
    assert trait("hair_blue") == "hair blue"


@pytest.mark.parametrize(
    ("key", "teacher", "student", "tone"),
    [
        ("fid", 1.0, 1.0, "good"),
        ("fid", 1.0, 0.9, "good"),
        ("fid", 0.77, 1.64, "warn"),
        ("fid", 0.77, 20.0, "bad"),
        ("mode_coverage", 0.998, 0.987, "warn"),
        ("mode_coverage", 0.998, 0.5, "bad"),
        ("recall", 0.5, 0.6, "good"),
        ("fid", None, 1.0, ""),
        ("fid", 1.0, None, ""),
    ],
)
def test_worse_quality_is_never_neutral(key, teacher, student, tone):
    assert quality_tone(key, teacher, student) == tone


@pytest.mark.parametrize("gates", [None, Gates(passed=True)])
def test_a_run_without_requirements_says_so(gates):
    found = gate(RunDirectory(run=Run(), gates=gates))
    assert (found.title, found.tone) == ("No requirements set", "")


def test_failed_requirements_come_first():
    requirements = [
        {"requirement": "fid<2", "passed": True, "text": "fid 1.64, required below 2"},
        {"requirement": "recall>=0.9", "passed": False, "text": "recall 0.7, required at least 0.9"},
    ]
    found = gate(RunDirectory(run=Run(), gates=Gates(passed=False, requirements=requirements)))
    assert (found.title, found.tone) == ("1 of 2 requirements NOT met", "bad")
    assert found.lines == (("bad", "recall 0.7, required at least 0.9"), ("good", "fid 1.64, required below 2"))


def test_met_requirements_are_good():
    met = Gates(passed=True, requirements=[{"requirement": "fid<2", "passed": True, "text": "fid 1, required below 2"}])
    assert gate(RunDirectory(run=Run(), gates=met)).tone == "good"


def test_a_run_without_measurements_has_cards_without_values():
    run = RunDirectory(run=Run())
    assert verdict(run) == "Speed: not measured. Parity of the exported file: not measured. Quality: not measured."
    assert all(card.value is None for card in cards(run))
