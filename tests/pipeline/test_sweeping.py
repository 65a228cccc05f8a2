"""The students of a sweep: their configs, and what they share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from dcp_deploy.config import BuildConfig
from dcp_deploy.errors import GateError, QualityError, UsageError
from dcp_deploy.files import sha256_file, write_json
from dcp_deploy.pipeline import sweeping
from dcp_deploy.pipeline.builder import Run
from dcp_deploy.pipeline.record import RunRecord, StageRecord, adopt, locked, why_again
from dcp_deploy.pipeline.sweeping import Size, plan_sweep, sweep, sweep_configs
from dcp_deploy.progress import Reporter


def test_every_student_has_a_folder_of_its_own_named_by_its_size() -> None:
    configs = sweep_configs(BuildConfig(seed=3), [0.5, 0.85], "ratio")
    assert [(one.ratio, str(one.directory), one.seed) for one in configs] == [
        (0.5, "build/demo-sweep/ratio-0.5", 3),
        (0.85, "build/demo-sweep/ratio-0.85", 3),
    ]


def test_a_budget_takes_the_place_of_the_ratio() -> None:
    configs = sweep_configs(BuildConfig(out=Path("out")), [0.1, 0.2], "target_macs")
    assert [(one.target_macs, str(one.directory)) for one in configs] == [
        (0.1, "out/target-macs-0.1"),
        (0.2, "out/target-macs-0.2"),
    ]


@pytest.mark.parametrize(
    ("values", "size", "message"),
    [
        ([0.5], "ratio", "--ratio names fewer than two sizes"),
        ([0.5, 0.7, 0.5], "ratio", "--ratio names 0.5 twice"),
        ([0.5, math.nan], "ratio", "--ratio nan: input should be a finite number"),
        ([0.5, math.inf], "target_macs", "--target-macs inf"),
        ([0.5, 70], "ratio", "for 70 % write 0.7"),
        ([0.5, 0.0], "target_macs", "--target-macs 0"),
    ],
)
def test_sizes_that_make_no_sweep_are_refused(values: list[float], size: Size, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sweep_configs(BuildConfig(), values, size)


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """Return a run directory whose teacher and scores are done."""
    directory = tmp_path / "scored"
    directory.mkdir()
    record = RunRecord(directory, networks={"teacher": {"parameters": 7}, "pruned": {"parameters": 5}})
    for name, output in (("teacher", "teacher.safetensors"), ("score", "scores.safetensors")):
        (directory / output).write_text(name)
        record.stages[name] = StageRecord("done", key=name, outputs={output: sha256_file(directory / output)})
    record.stages["prune"] = StageRecord("done", outputs={"pruned.safetensors": "0" * 64})
    record.save()
    return directory


def test_results_of_another_run_are_copied_with_their_records(scored: Path, tmp_path: Path) -> None:
    target = tmp_path / "new"
    adopt(scored, target, ("teacher", "score"))
    assert (target / "scores.safetensors").read_text() == "score"
    record = RunRecord.load(target)
    assert list(record.stages) == ["teacher", "score"] and record.networks == {"teacher": {"parameters": 7}}


def test_what_other_settings_gave_is_replaced_and_the_same_result_is_left_alone(scored: Path, tmp_path: Path) -> None:
    target = tmp_path / "own"
    target.mkdir()
    (target / "scores.safetensors").write_text("mine")
    RunRecord(target, stages={"score": StageRecord("done", key="mine")}).save()
    adopt(scored, target, ("teacher", "score"))
    assert (target / "scores.safetensors").read_text() == "score"
    assert RunRecord.load(target).stages["score"].key == "score"
    before = (target / "scores.safetensors").stat().st_mtime_ns
    adopt(scored, target, ("score",))
    assert (target / "scores.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", ["missing", "altered"])
def test_a_damaged_result_is_copied_again(scored: Path, tmp_path: Path, damage: str) -> None:
    target = tmp_path / "own"
    adopt(scored, target, ("score",))
    scores = target / "scores.safetensors"
    scores.unlink() if damage == "missing" else scores.write_text("half")
    adopt(scored, target, ("score",))
    assert scores.read_text() == "score"


def test_a_copied_result_is_used_only_if_its_key_fits(scored: Path, tmp_path: Path) -> None:
    adopt(scored, tmp_path / "new", ("score",))
    record = RunRecord.load(tmp_path / "new").stages["score"]
    assert why_again(record, tmp_path / "new", "score", {"latents": 3}, {}) is not None


def test_a_stage_that_is_not_done_is_not_copied(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.mkdir()
    (source / "scores.safetensors").write_text("half")
    RunRecord(source, stages={"score": StageRecord("failed", outputs={"scores.safetensors": "0" * 64})}).save()
    adopt(source, target, ("score",))
    assert not (target / "scores.safetensors").exists()


def test_sizes_that_differ_in_a_late_digit_have_folders_of_their_own() -> None:
    names = [one.directory.name for one in sweep_configs(BuildConfig(), [0.1234567, 0.1234568], "ratio")]
    assert names == ["ratio-0.1234567", "ratio-0.1234568"]


def test_sizes_that_give_the_same_student_are_refused_before_the_work(tmp_path: Path) -> None:
    config = BuildConfig(out=tmp_path / "sweep")
    for work in (plan_sweep, lambda *arguments: sweep(*arguments[:2])):
        with pytest.raises(UsageError, match=r"ratio-0.7 and ratio-0.701 are the same student"):
            work(config, [0.7, 0.701], "ratio")
    assert not (tmp_path / "sweep").exists()


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    config = BuildConfig(out=tmp_path)
    write_json(tmp_path / "bench.json", {"schema": 1, "rows": []})
    with pytest.raises(UsageError, match="is not of a sweep"):
        sweep(config, [0.5, 0.7])
    (tmp_path / "bench.json").unlink()
    (tmp_path / "ratio-0.7").write_text("mine")
    with pytest.raises(UsageError, match="is a file, where a student's folder belongs"):
        sweep(config, [0.5, 0.7])
    (tmp_path / "ratio-0.7").unlink()
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UsageError, match="is the run directory of one build"):
        plan_sweep(config, [0.5, 0.7], "ratio")


def test_another_build_in_one_of_the_folders_shows_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "build", lambda *_, **__: pytest.fail("built"))
    with locked(tmp_path / "ratio-0.7"), pytest.raises(UsageError, match="another build"):
        sweep(BuildConfig(out=tmp_path), [0.5, 0.7])


def test_force_scores_once_and_a_student_that_fails_a_gate_does_not_stop_the_others(
    scored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = sweep_configs(BuildConfig(out=scored.parent), [0.5, 0.7, 0.8], "ratio")
    calls: list[Any] = []

    def build(config: BuildConfig, *, force: bool, spared: Any, reporter: Reporter) -> Run:
        calls.append((force, tuple(spared)))
        if config.ratio == 0.7:
            raise QualityError("it collapsed", "Train longer.")
        return Run(config.directory, RunRecord(config.directory))

    monkeypatch.setattr(sweeping, "build", build)
    runs = sweeping._built(configs, True, Reporter())
    assert [run.directory.name for run in runs] == ["ratio-0.5", "ratio-0.8"]
    assert calls == [(True, ()), (True, ("teacher", "score")), (True, ("teacher", "score"))]
    with pytest.raises(GateError, match="it collapsed"):
        sweeping._built(sweep_configs(BuildConfig(out=scored.parent), [0.7, 0.71], "ratio")[:1], False, Reporter())


@pytest.fixture
def timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows with every benchmark; there are two students to time, "a" and "b"."""
    calls: list[int] = []

    def time_students(*_: Any, **__: Any) -> dict[str, Any]:
        calls.append(1)
        return {"rows": [], "unstable_because": []}

    monkeypatch.setattr(sweeping, "time_students", time_students)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for file in ("student.onnx", "teacher.safetensors"):
            (tmp_path / name / file).write_text(file)
    return calls


def time(folder: Path, **settings: Any) -> None:
    sweeping._timed(folder / "bench.json", [folder / "a", folder / "b"], BuildConfig(**settings), False, Reporter())


def test_the_benchmark_is_kept_only_for_the_same_files_settings_and_machine(
    tmp_path: Path, timed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    time(tmp_path)
    time(tmp_path)
    assert len(timed) == 1
    time(tmp_path, threads=1 + sweeping.default_threads())
    assert len(timed) == 2
    monkeypatch.setattr("dcp_deploy.benchmarks.machine.environment._cpu_model", lambda: "another")
    time(tmp_path, threads=1 + sweeping.default_threads())
    assert len(timed) == 3
    (tmp_path / "a" / "teacher.safetensors").write_text("another")
    time(tmp_path, threads=1 + sweeping.default_threads())
    assert len(timed) == 4


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 1, "rows": 3}'])
def test_a_damaged_benchmark_is_measured_again(tmp_path: Path, timed: list[int], content: str) -> None:
    (tmp_path / "bench.json").write_text(content)
    time(tmp_path)
    assert len(timed) == 1
