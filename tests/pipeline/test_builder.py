"""The order of the stages, their cache keys and their record, with cheap stand-ins; test_build.py has real stages."""

from __future__ import annotations

import errno
import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dcp_deploy.checkpoints import save_generator
from dcp_deploy.config import BuildConfig
from dcp_deploy.errors import GateError, InputError, MissingCapabilityError, UsageError
from dcp_deploy.generators import Generator
from dcp_deploy.pipeline import builder, plan
from dcp_deploy.pipeline import record as run_record
from dcp_deploy.pipeline.builder import REUSED, Run, build
from dcp_deploy.pipeline.inputs import BuildInputs, fetch_teacher, given_teacher
from dcp_deploy.pipeline.plan import plan_build
from dcp_deploy.pipeline.record import locked
from dcp_deploy.pipeline.stages import SOURCE, Job, SkippedError, Stage
from dcp_deploy.progress import Progress, Reporter

from .conftest import Listener

Trouble = Callable[[], None]


class Toys:
    """Three cheap stages in a row, and a list of those that ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.trouble: dict[str, Trouble] = {}

    def stages(self) -> tuple[Stage, ...]:
        return (
            self.stage("first", (SOURCE,), "first.txt"),
            self.stage("second", ("first.txt",), "second.txt", "seed"),
            self.stage("report", ("first.txt", "second.txt", "optional.txt"), "report.html"),
        )

    def stage(self, name: str, inputs: tuple[str, ...], output: str, *settings: str) -> Stage:
        def work(job: Job, progress: Progress) -> list[str]:
            self.ran.append(name)
            self.trouble.get(name, lambda: None)()
            read = [job.inputs.teacher.path if input == SOURCE else job.path(input) for input in inputs]
            text = [str(path.stat().st_size) for path in read if path.exists()]
            job.path(output).write_text(f"{name} {text} {wanted(job.inputs)}")
            return [output]

        def wanted(inputs: BuildInputs) -> dict[str, Any]:
            return {field: getattr(inputs.config, field) for field in settings}

        return Stage(name, name, inputs, wanted, work)


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> Toys:
    toys = Toys()
    monkeypatch.setattr(builder, "STAGES", toys.stages())
    return toys


@pytest.fixture
def teacher(tiny_generator: Generator, tmp_path: Path) -> Path:
    return save_generator(tiny_generator, tmp_path / "teacher.st")


@pytest.fixture
def config(teacher: Path, tmp_path: Path) -> BuildConfig:
    return BuildConfig(dataset="ffhq", teacher=teacher, out=tmp_path / "run")


def changed(config: BuildConfig, **values: Any) -> BuildConfig:
    return config.model_copy(update=values)


def record(run: Run) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((run.directory / "run.json").read_text())
    return document


def fail_with(error: BaseException) -> Trouble:
    def trouble() -> None:
        raise error

    return trouble


# ---- a first and a second run ----


def test_all_stages_run_in_order_and_are_recorded(toys: Toys, config: BuildConfig) -> None:
    run = build(config)
    assert toys.ran == ["first", "second", "report"]
    document = record(run)
    assert document["schema"] == 1 and document["status"] == "finished"
    assert list(document["stages"]) == toys.ran
    assert document["config"]["dataset"] == "ffhq" and document["environment"]["python"]
    second = document["stages"]["second"]
    assert second["status"] == "done" and not second["reused"] and second["settings"] == {"seed": 0}
    assert second["inputs"].keys() == {"first.txt"} and second["outputs"].keys() == {"second.txt"}
    assert second["seconds"] >= 0 and second["version"] == document["tool"]["version"]
    assert BuildConfig.from_toml(run.directory / "config.toml").to_dict() == config.to_dict()


def test_a_second_run_reuses_every_stage_and_gives_the_reason(toys: Toys, config: BuildConfig) -> None:
    first = record(build(config))
    toys.ran.clear()
    again = record(build(config))
    assert toys.ran == []
    for name, stage in again["stages"].items():
        assert stage["reused"] and stage["reason"] == REUSED
        assert stage["seconds"] == first["stages"][name]["seconds"]


@pytest.mark.parametrize(
    ("damage", "reason"), [("alter", "second.txt was altered"), ("delete", "second.txt is missing")]
)
def test_an_altered_or_missing_output_runs_its_stage_again(
    toys: Toys, config: BuildConfig, damage: str, reason: str
) -> None:
    directory = build(config).directory
    toys.ran.clear()
    if damage == "alter":
        (directory / "second.txt").write_text("something else")
    else:
        (directory / "second.txt").unlink()
    run = build(config)
    assert reason in record(run)["stages"]["second"]["reason"]
    assert toys.ran == ["second", "report"]  # the report is removed because it may show the altered file


def test_a_changed_setting_runs_its_stage_and_the_later_ones(toys: Toys, config: BuildConfig) -> None:
    build(config)
    toys.ran.clear()
    run = build(changed(config, seed=5))
    assert toys.ran == ["second", "report"]
    assert record(run)["stages"]["second"]["reason"] == "ran because settings changed: seed 0 -> 5"


def test_a_changed_teacher_runs_everything(toys: Toys, config: BuildConfig, tiny_generator: Generator) -> None:
    build(config)
    toys.ran.clear()
    assert config.teacher is not None
    save_generator(tiny_generator, config.teacher, extra={"other": "file"})
    run = build(config)
    assert toys.ran == ["first", "second", "report"]
    assert record(run)["stages"]["first"]["reason"] == f"ran because inputs changed: {SOURCE}"


def test_the_same_teacher_under_another_name_changes_nothing(toys: Toys, config: BuildConfig, tmp_path: Path) -> None:
    build(config)
    toys.ran.clear()
    assert config.teacher is not None
    build(changed(config, teacher=config.teacher.rename(tmp_path / "moved.st")))
    assert toys.ran == []


def test_another_version_of_the_tool_runs_everything(
    toys: Toys, config: BuildConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(config)
    toys.ran.clear()
    monkeypatch.setattr(run_record, "__version__", "99.0")
    run = build(config)
    assert toys.ran == ["first", "second", "report"]
    assert "the tool changed" in record(run)["stages"]["first"]["reason"]


def test_force_runs_everything(toys: Toys, config: BuildConfig) -> None:
    build(config)
    toys.ran.clear()
    build(config, force=True)
    assert toys.ran == ["first", "second", "report"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 2}', '{"schema": 1, "stages": 3, "networks": {}}'])
def test_an_unreadable_record_runs_everything(toys: Toys, config: BuildConfig, content: str) -> None:
    directory = build(config).directory
    toys.ran.clear()
    (directory / "run.json").write_text(content)
    build(config)
    assert toys.ran == ["first", "second", "report"]


def test_stages_and_reuse_are_reported(toys: Toys, config: BuildConfig) -> None:
    listener = Listener()
    build(config, reporter=listener)
    build(config, reporter=listener)
    assert [text.split(":")[0] for text in listener.heard] == ["first", "second", "report"] * 2
    assert all(REUSED in text for text in listener.heard[3:])


# ---- runs that end early ----


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (RuntimeError("a bug"), "failed"),
        (GateError("worse than allowed"), "failed"),
        (OSError(errno.ENOSPC, "No space left on device"), "failed"),
    ],
    ids=repr,
)
def test_the_next_run_continues_where_a_run_ended_early(
    toys: Toys, config: BuildConfig, error: BaseException, status: str
) -> None:
    toys.trouble["second"] = fail_with(error)
    with pytest.raises(type(error)):
        build(config)
    document = json.loads((config.directory / "run.json").read_text())
    assert document["status"] == document["stages"]["second"]["status"] == status
    assert document["stages"]["report"]["status"] == "pending"
    toys.trouble.clear()
    toys.ran.clear()
    build(config)
    assert toys.ran == ["second", "report"]


def test_a_full_disk_is_reported_even_if_the_record_cannot_be_written(
    toys: Toys, config: BuildConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = fail_with(OSError(errno.ENOSPC, "No space left on device"))

    def fill_the_disk() -> None:
        monkeypatch.setattr(run_record, "write_json", lambda path, value: full())
        full()

    toys.trouble["second"] = fill_the_disk
    with pytest.raises(OSError, match="No space left"):
        build(config)


def test_a_failed_run_removes_the_report_of_an_earlier_run(toys: Toys, config: BuildConfig) -> None:
    directory = build(config).directory
    assert (directory / "report.html").exists()
    toys.trouble["second"] = fail_with(GateError("worse"))
    with pytest.raises(GateError):
        build(changed(config, seed=1))
    assert not (directory / "report.html").exists()


def test_a_skipped_stage_does_not_fail_the_run_and_is_tried_again(toys: Toys, config: BuildConfig) -> None:
    toys.trouble["second"] = fail_with(SkippedError("no TensorRT here"))
    run = build(config)
    second = record(run)["stages"]["second"]
    assert (second["status"], second["reason"], second["outputs"]) == ("skipped", "no TensorRT here", {})
    toys.trouble.clear()
    toys.ran.clear()
    build(config)
    assert toys.ran == ["second", "report"]


def test_earlier_outputs_of_a_skipped_stage_are_removed(toys: Toys, config: BuildConfig) -> None:
    directory = build(config).directory
    toys.trouble["second"] = fail_with(SkippedError("uninstalled"))
    build(changed(config, seed=1))
    assert not (directory / "second.txt").exists()


def test_a_directory_in_use_is_refused_with_the_number_of_its_process(toys: Toys, config: BuildConfig) -> None:
    with locked(config.directory), pytest.raises(UsageError, match=r"process \d+"):
        build(config)
    assert toys.ran == []
    build(config)


# ---- before any work ----


@pytest.fixture
def nothing_written(config: BuildConfig) -> Iterator[None]:
    yield
    assert not config.directory.exists()


@pytest.mark.usefixtures("nothing_written")
def test_a_missing_onnxruntime_fails_before_any_work(config: BuildConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    with pytest.raises(MissingCapabilityError, match="ONNX Runtime"):
        build(config)


@pytest.mark.usefixtures("nothing_written")
def test_a_target_without_tensorrt_fails_before_any_work(config: BuildConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "tensorrt" in name else find(name))
    with pytest.raises(MissingCapabilityError, match="sm89"):
        build(changed(config, target="sm89"))


@pytest.mark.usefixtures("nothing_written")
@pytest.mark.parametrize(
    ("setting", "value", "error"),
    [("target", "RTX 9999", UsageError), ("device", "abacus", UsageError), ("device", "mps", UsageError)],
)
def test_an_unknown_target_or_device_fails_before_any_work(
    config: BuildConfig, setting: str, value: str, error: type[Exception]
) -> None:
    with pytest.raises(error, match=value):
        build(changed(config, **{setting: value}))


@pytest.mark.usefixtures("nothing_written")
@pytest.mark.parametrize("content", [None, b"", b"not a model"], ids=["missing", "empty", "something else"])
def test_a_bad_teacher_fails_before_any_work(config: BuildConfig, content: bytes | None) -> None:
    assert config.teacher is not None
    config.teacher.unlink()
    if content is not None:
        config.teacher.write_bytes(content)
    with pytest.raises(InputError, match=r"teacher\.st"):
        build(config)


def test_too_little_space_fails_before_the_first_stage(
    toys: Toys, config: BuildConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "free_space", lambda folder: 1_000_000)
    with pytest.raises(MissingCapabilityError, match="1 MB are free"):
        build(config)
    assert toys.ran == []


def test_a_finished_build_needs_no_space(toys: Toys, config: BuildConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    build(config)
    monkeypatch.setattr(plan, "free_space", lambda folder: 0)
    build(config)


@pytest.mark.usefixtures("offline")
def test_a_teacher_that_cannot_be_fetched_is_named_with_its_flag() -> None:
    with pytest.raises(MissingCapabilityError) as caught:
        fetch_teacher(BuildConfig(dataset="lsunchurch"), Reporter())
    assert "--teacher FILE" in caught.value.remedy
    assert "stylegan2-church-config-f.pkl" in caught.value.message


def test_the_teacher_of_the_demo_ships_with_the_package() -> None:
    teacher = given_teacher(BuildConfig())
    assert teacher is not None and teacher.path.is_file() and teacher.origin["origin"] == "package"


MISSING = Path("gone.pth")


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"lpips": MISSING}, InputError, "--lpips gone.pth does not exist"),
        ({"discriminator": MISSING}, InputError, "--discriminator gone.pth"),
        ({"ratio": 0.5, "target_macs": 0.2}, UsageError, "a ratio of 0.5 and a target for macs"),
        ({"target_params": 0.5, "target_macs": 0.2}, UsageError, "several targets"),
        ({"target": "sm90"}, MissingCapabilityError, "sm90"),
        ({"target": "sm1"}, UsageError, "sm1"),
        ({"require": ["fid<2"], "dataset": "ffhq"}, UsageError, "cannot be checked"),
    ],
)
@pytest.mark.parametrize("start", [build, plan_build])
@pytest.mark.usefixtures("nothing_written")
def test_a_build_and_its_dry_run_fail_alike_before_the_work(
    config: BuildConfig,
    start: Callable[[BuildConfig], object],
    changes: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        start(changed(config, **{"target": None, **changes}))


@pytest.mark.usefixtures("nothing_written")
def test_a_dry_run_sees_a_full_disk(config: BuildConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "free_space", lambda folder: 1000)
    with pytest.raises(MissingCapabilityError, match="no space for this build"):
        plan_build(config)


@pytest.mark.parametrize(
    ("score", "slow"), [("weight-out", False), ("random", False), ("diversity", True), ("hybrid", True)]
)
def test_a_plan_knows_how_long_its_score_takes(config: BuildConfig, score: str, slow: bool) -> None:
    seconds = plan_build(changed(config, score=score)).to_dict()["estimate"]["seconds"]["score"]
    assert (seconds > 0.1) == slow


def test_a_plan_counts_no_samples_where_quality_is_not_measured(
    config: BuildConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 10 images per second the samples would take minutes; the rest takes 30 seconds and 100 images each."""
    monkeypatch.setattr(plan, "_images_per_second", lambda generator: 10.0)
    assert 40 < plan_build(config).to_dict()["estimate"]["seconds"]["evaluate"] <= 60


def test_a_build_and_its_plan_point_out_unusual_widths(toys: Toys, config: BuildConfig) -> None:
    for run in (build, plan_build):
        listener = Listener()
        run(changed(config, align=7), reporter=listener)
        assert any("align 7 leaves layers whose channels are not multiples of 8" in text for text in listener.heard)


def test_a_plan_writes_nothing(config: BuildConfig, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    plan = plan_build(config)
    assert sorted(tmp_path.rglob("*")) == before
    facts = plan.to_dict()
    assert facts["student"]["widths"] == [8] * 8  # 30 % of 8, 10 and 12, to the nearest multiple of eight
    assert facts["student"]["macs"] < facts["teacher"]["macs"]
    assert facts["estimate"]["total_seconds"] > 0 and facts["estimate"]["disk_bytes"] > 0
    json.dumps(facts, allow_nan=False)
