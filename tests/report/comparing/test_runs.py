"""What the comparison says of several run directories."""

from __future__ import annotations

import json

import pytest

from dcp_deploy.errors import InputError, QualityError, UsageError
from dcp_deploy.gates import parse_requirements
from dcp_deploy.report.comparing import compare
from dcp_deploy.report.comparing.runs import MACS_INSTEAD

from .conftest import MakeRun

KNOWN = ("fid", "speedup")


def test_the_figures_of_each_run_stand_beside_the_teachers(make_run: MakeRun) -> None:
    a, b = make_run("a", fid=7.0, ratio=0.5), make_run("b", fid=9.0, slower=0.5, ratio=0.85)
    found = compare([a.path, b.path])
    assert [run.name for run in found.runs] == ["a", "b"]
    assert [run.settings for run in found.runs] == [{"ratio": 0.5}, {"ratio": 0.85}]
    assert [run.quality["fid"] for run in found.runs] == [7.0, 9.0]
    assert found.runs[1].latency_ms == pytest.approx(found.runs[0].latency_ms / 2)
    assert found.teacher is not None and found.teacher.quality["fid"] == 6.31
    assert found.teacher.fastest == "teacher, torch eager"
    assert found.cost == "latency_ms" and found.recommended == "b"
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_run_that_is_slower_and_worse_is_named_as_dominated(make_run: MakeRun) -> None:
    found = compare([make_run("a", fid=7.0).path, make_run("b", fid=9.0, slower=2.0).path])
    assert [run.dominated_by for run in found.runs] == [None, "a"]


def test_requirements_are_judged_for_every_run_alike(make_run: MakeRun) -> None:
    paths = [make_run("a", fid=7.0).path, make_run("b", fid=9.0, slower=0.5).path]
    found = compare(paths, requirements=parse_requirements(["fid<8"], KNOWN))
    assert [run.gates.passed for run in found.runs if run.gates] == [True, False]
    assert found.recommended == "a"
    found.raise_for_failure()
    with pytest.raises(QualityError, match="none meets its requirements"):
        compare(paths, requirements=parse_requirements(["fid<1"], KNOWN)).raise_for_failure()


def test_without_given_requirements_each_run_keeps_its_own(make_run: MakeRun) -> None:
    a, b = make_run("a"), make_run("b", slower=0.5)
    for run, passed in ((a, True), (b, False)):
        run.write("gates.json", {"schema": 1, "passed": passed, "requirements": [
            {"requirement": "fid<10", "metric": "fid", "value": 9.8, "limit": 10, "passed": passed, "text": "fid 9.8"}
        ]})  # fmt: skip
    assert compare([a.path, b.path]).recommended == "a"


def test_latencies_of_different_machines_give_way_to_macs(make_run: MakeRun) -> None:
    a, b = make_run("a"), make_run("b", slower=0.5)
    b.change("bench.json", environment={"cpu": "another", "usable_cores": 2})
    found = compare([a.path, b.path])
    assert found.cost == "macs"
    assert "Latencies are not comparable: the benchmarks differ in cpu." in found.notes
    assert MACS_INSTEAD in found.notes


def test_an_unstable_benchmark_gives_way_to_macs(make_run: MakeRun) -> None:
    a, b = make_run("a"), make_run("b", slower=0.5)
    b.change("bench.json", unstable_because=["other processes took 1.4 of 2 cores"])
    found = compare([a.path, b.path])
    assert found.cost == "macs" and found.runs[1].unstable_because


def test_a_benchmark_in_turns_replaces_the_runs_own(make_run: MakeRun) -> None:
    a, b = make_run("a"), make_run("b")
    b.change("bench.json", environment={"cpu": "another"})
    timing = a.read("bench.json")
    rows = {row["name"]: row for row in timing["rows"]}
    teacher, student = rows["teacher, torch eager"], rows["student, ONNX Runtime"]
    timing["rows"] = [teacher] + [
        {**student, "name": f"{name}, ONNX Runtime", "labels": {**student["labels"], "model": name}, "p50_ms": p50}
        for name, p50 in (("a", 3.0), ("b", 2.0))
    ]
    found = compare([a.path, b.path], timing=timing)
    assert found.cost == "latency_ms"
    assert [(run.latency_ms, run.fastest) for run in found.runs] == [(3.0, "a, ONNX Runtime"), (2.0, "b, ONNX Runtime")]


def test_different_teachers_are_noted_and_get_no_column(make_run: MakeRun) -> None:
    found = compare([make_run("a").path, make_run("b", teacher="1" * 64).path])
    assert found.teacher is None
    assert "The runs have different teachers, so each speedup is over another baseline." in found.notes


def test_figures_of_different_features_are_not_weighed_against_each_other(make_run: MakeRun) -> None:
    a, b = make_run("a"), make_run("b")
    metrics = b.read("metrics.json")
    metrics["models"]["student"]["features"] = "inception"
    b.write("metrics.json", metrics)
    found = compare([a.path, b.path])
    assert "FID and the like are not comparable: the runs differ in features." in found.notes
    assert found.recommended is None


def test_an_unfinished_run_is_shown_but_not_recommended(make_run: MakeRun) -> None:
    a, b = make_run("a"), make_run("b", fid=1.0, slower=0.1)
    b.change("run.json", status="interrupted")
    found = compare([a.path, b.path])
    assert found.recommended == "a"
    assert any("the build is interrupted" in note for note in found.notes)


def test_runs_whose_folders_have_one_name_are_named_by_their_paths(make_run: MakeRun) -> None:
    make_run("x"), make_run("y")
    a, b = make_run("x/run"), make_run("y/run")
    assert [run.name for run in compare([a.path, b.path]).runs] == [str(a.path), str(b.path)]


def test_one_run_the_same_twice_and_other_folders_are_refused(make_run: MakeRun) -> None:
    a = make_run("a")
    with pytest.raises(UsageError, match="at least two runs"):
        compare([a.path])
    with pytest.raises(UsageError, match="given twice"):
        compare([a.path, a.path / ".." / "a"])
    with pytest.raises(InputError, match=r"holds no run\.json"):
        compare([a.path, a.path.parent])


def test_a_run_without_figures_does_not_stop_the_comparison_of_the_others(make_run: MakeRun) -> None:
    a, b, c = make_run("a", fid=7.0), make_run("b", fid=8.0, slower=0.5), make_run("c")
    c.change("run.json", status="interrupted")
    for name in ("metrics.json", "bench.json", "student.safetensors"):
        (c.path / name).unlink()
    found = compare([c.path, a.path, b.path])
    assert found.recommended == "b" and found.cost == "latency_ms"
    assert found.front == ("a", "b") and found.runs[0].dominated_by is None
    assert not any("not comparable" in note for note in found.notes)
    assert "Not every run says which teacher it has, so each speedup is over another baseline." in found.notes


def test_the_teachers_column_comes_from_a_run_that_measured_it(make_run: MakeRun) -> None:
    a, b = make_run("a"), make_run("b")
    (a.path / "metrics.json").unlink()
    teacher = compare([a.path, b.path]).teacher
    assert teacher is not None and teacher.quality["fid"] == 6.31


def test_other_seeds_are_noted_and_compared(make_run: MakeRun) -> None:
    a, b = make_run("a"), make_run("b")
    metrics = b.read("metrics.json")
    metrics["models"]["student"]["seed"] = 7
    b.write("metrics.json", metrics)
    found = compare([a.path, b.path])
    assert found.recommended is not None
    assert any("different seeds" in note for note in found.notes)


def test_requirements_none_leaves_out_those_of_the_builds(make_run: MakeRun) -> None:
    a, b = make_run("a", fid=7.0), make_run("b", fid=8.0)
    for run in (a, b):
        run.write("gates.json", {"schema": 1, "passed": False, "requirements": [
            {"requirement": "fid<1", "passed": False, "text": "fid 8, required below 1"}]})  # fmt: skip
    assert compare([a.path, b.path]).recommended is None
    found = compare([a.path, b.path], requirements=parse_requirements(["none"], KNOWN))
    assert found.recommended == "a" and found.runs[0].gates is None


def test_a_run_whose_outcome_contradicts_itself_has_not_passed(make_run: MakeRun) -> None:
    a, b = make_run("a"), make_run("b")
    failed = {"requirement": "fid<1", "passed": False, "text": "fid 9"}
    a.write("gates.json", {"schema": 1, "passed": True, "requirements": [failed]})
    b.write("gates.json", {"schema": 1, "passed": False, "requirements": []})
    found = compare([a.path, b.path])
    assert [run.gates and run.gates.passed for run in found.runs] == [False, False]
    assert "The runs have different requirements; --require gives all the same ones." in found.notes
    with pytest.raises(QualityError, match="none meets its requirements: a: fid 9; b: it is not known which"):
        found.raise_for_failure()


def test_a_benchmark_in_turns_decides_the_builds_own_requirements_on_speed(make_run: MakeRun) -> None:
    a, b = make_run("a"), make_run("b")
    timing = a.read("bench.json")
    teacher, student = (next(row for row in timing["rows"] if row["name"] == name)
                        for name in ("teacher, torch eager", "student, ONNX Runtime"))  # fmt: skip
    timing["rows"] = [teacher] + [
        {**student, "labels": {**student["labels"], "model": name}, "speedup": {"value": value}}
        for name, value in (("a", 4.0), ("b", 6.0))
    ]
    for run in (a, b):
        run.write("gates.json", {"schema": 1, "passed": False, "requirements": [
            {"requirement": "speedup>5", "passed": False, "text": "speedup 6, but it cannot be trusted"}]})  # fmt: skip
    found = compare([a.path, b.path], timing=timing)
    assert [run.gates and run.gates.passed for run in found.runs] == [False, True]


def test_a_folder_named_teacher_is_not_the_teacher(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run("teacher").path
    make_run("b")
    monkeypatch.chdir(folder.parent)
    assert [run.name for run in compare(["teacher", "b"]).runs] == [str(folder), "b"]


def test_a_run_has_the_name_that_was_given(make_run: MakeRun) -> None:
    a, b = make_run("a"), make_run("b")
    (a.path.parent / "latest").symlink_to(a.path)
    assert [run.name for run in compare([a.path.parent / "latest", b.path / "grids" / ".."]).runs] == ["latest", "b"]
