"""The students of a sweep: their configs, and what they share."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcp_deploy.config import BuildConfig
from dcp_deploy.errors import UsageError
from dcp_deploy.pipeline.record import RunRecord, StageRecord, adopt, why_again
from dcp_deploy.pipeline.sweeping import Size, sweep_configs


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
        record.stages[name] = StageRecord("done", key=name, outputs={output: "0" * 64})
    record.stages["prune"] = StageRecord("done", outputs={"pruned.safetensors": "0" * 64})
    record.save()
    return directory


def test_results_of_another_run_are_copied_with_their_records(scored: Path, tmp_path: Path) -> None:
    target = tmp_path / "new"
    adopt(scored, target, ("teacher", "score"))
    assert (target / "scores.safetensors").read_text() == "score"
    record = RunRecord.load(target)
    assert list(record.stages) == ["teacher", "score"] and record.networks == {"teacher": {"parameters": 7}}


def test_what_a_run_has_done_itself_is_left_alone(scored: Path, tmp_path: Path) -> None:
    target = tmp_path / "own"
    target.mkdir()
    (target / "scores.safetensors").write_text("mine")
    RunRecord(target, stages={"score": StageRecord("done", key="mine")}).save()
    adopt(scored, target, ("teacher", "score"))
    assert (target / "scores.safetensors").read_text() == "mine"
    assert RunRecord.load(target).stages["score"].key == "mine"
    assert (target / "teacher.safetensors").read_text() == "teacher"


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
