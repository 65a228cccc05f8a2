"""A build with a score, a loss and loggers that its user named."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dcp_deploy.checkpoints import read_metadata, save_generator
from dcp_deploy.compression import load_scores
from dcp_deploy.config import BuildConfig
from dcp_deploy.errors import MissingCapabilityError, UsageError
from dcp_deploy.extensions import loggers
from dcp_deploy.generators import Generator
from dcp_deploy.pipeline import builder, final_figures
from dcp_deploy.pipeline.builder import Run, build
from dcp_deploy.pipeline.final_figures import log_final_figures
from dcp_deploy.pipeline.inputs import resolve_inputs
from dcp_deploy.pipeline.plan import plan_build
from dcp_deploy.pipeline.stages import STAGES
from dcp_deploy.progress import Reporter

from ..report.conftest import RunFolder, complete_run, run_folder  # noqa: F401 (fixtures)
from .conftest import Listener

SCORE = """
def largest(generator, *, latents, seed, progress):
    return {name: layer.weight.square().sum(dim=(0, 2, 3)) for name, layer in generator.synthesis.scored()}
"""
LOSS = """
def squares(student, teacher):
    return (student - teacher).square().mean()
"""


@pytest.fixture
def config(tmp_path: Path, tiny_generator: Generator, monkeypatch: pytest.MonkeyPatch) -> Iterator[BuildConfig]:
    """Settings of a short build in an empty folder that holds the modules of a score and a loss."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(builder, "STAGES", STAGES[:4])
    Path("our_score.py").write_text(SCORE)
    Path("our_loss.py").write_text(LOSS)
    teacher = save_generator(tiny_generator, tmp_path / "teacher.safetensors")
    yield BuildConfig(
        dataset="ffhq", teacher=teacher, out=Path("run"), steps=2, refine="none", score="our_score:largest",
        loss=["our_loss:squares=2"], logger=["csv"], device="cpu",
    )  # fmt: skip
    forget()


def forget() -> None:
    """Let the modules be read again, as in another process."""
    for name in ("our_score", "our_loss"):
        sys.modules.pop(name, None)


def reused(run: Run) -> dict[str, bool]:
    return {name: stage.reused for name, stage in run.record.stages.items()}


def logged(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_score_and_a_loss_are_recorded_and_a_change_runs_their_stage_again(config: BuildConfig) -> None:
    run = build(config)
    story: dict[str, Any] = dict(read_metadata(run.directory / "student.safetensors")["extra"])
    scores = load_scores(run.directory / "scores.safetensors")
    assert story["pruning"]["scores"]["function"] == scores.settings["function"]
    assert scores.settings["function"]["function"] == config.score
    (loss,) = story["distillation"]["losses"]
    assert (loss["name"], loss["weight"]) == ("our_loss:squares", 2.0) and len(loss["sha256"]) == 64
    assert "squares" in json.loads((run.directory / "history.json").read_text())[-1]
    rows = logged(run.directory / "logs" / "csv")
    assert float(rows[1]["squares"]) > 0 and "student/parameters" in rows[-1]

    forget()
    again = build(config)
    assert all(reused(again).values())
    assert logged(run.directory / "logs" / "csv") == rows  # nothing is logged twice

    forget()
    Path("our_loss.py").write_text(LOSS.replace("mean()", "mean() * 2"))
    other = build(config)
    assert reused(other) == {"teacher": True, "score": True, "prune": True, "distill": False}
    assert "settings changed: losses" in other.record.stages["distill"].reason
    assert (run.directory / "logs" / "csv" / "version_1" / "metrics.csv").is_file()  # another training

    forget()
    Path("our_score.py").write_text(f"{SCORE}# changed\n")
    assert not reused(build(config))["score"]


def test_a_logger_that_is_new_to_a_finished_build_gets_its_history(config: BuildConfig) -> None:
    run = build(config)
    listener = Listener()
    more = build(config.model_copy(update={"logger": ["csv=elsewhere"]}), reporter=listener)
    assert all(reused(more).values())
    rows = logged(Path("elsewhere"))
    history = json.loads((run.directory / "history.json").read_text())
    assert [int(row["step"]) for row in rows] == [*(entry["step"] for entry in history), config.steps]
    assert any(line.startswith("logger csv=elsewhere: elsewhere/metrics.csv") for line in listener.heard)


def test_a_logger_that_fails_does_not_fail_a_build(config: BuildConfig) -> None:
    listener = Listener()
    assert (
        build(config.model_copy(update={"logger": ["csv=our_loss.py/below"]}), reporter=listener).record.status
        == "finished"
    )
    assert sum("the training goes on without it" in line for line in listener.heard) >= 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"score": "our_score:lagrest"}, "Did you mean largest"),
        ({"loss": ["our_loss:nothing"]}, "our_loss has no 'nothing'"),
        ({"loss": ["nowhere:squares"]}, "module 'nowhere' is not found"),
    ],
)
def test_a_dry_run_and_a_build_refuse_a_function_that_is_not_there(
    config: BuildConfig, changes: dict[str, Any], words: str
) -> None:
    for start in (plan_build, build):
        with pytest.raises(UsageError, match=words):
            start(config.model_copy(update=changes))
    assert not Path("run/run.json").exists()


def test_a_dry_run_names_the_package_that_a_logger_lacks(config: BuildConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    with pytest.raises(MissingCapabilityError, match="the logger csv needs the package lightning_fabric"):
        plan_build(config)


def test_a_dry_run_estimates_a_build_with_a_function(config: BuildConfig) -> None:
    estimate = plan_build(config).estimate
    assert estimate is not None and estimate.seconds["score"] > 0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"score": "divresity"}, "--score divresity is not a choice. Did you mean diversity?"),
        ({"loss": ["our_loss:squares=0"]}, "--loss: the loss 'our_loss:squares=0' has no positive weight"),
        ({"loss": ["edges"]}, "--loss: 'edges' is not a loss. Give a function of your own as module:function"),
        ({"logger": ["wandbb"]}, "--logger: 'wandbb' is not a logger. Did you mean wandb?"),
    ],
)
def test_a_wrong_name_is_refused_with_its_flag(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        BuildConfig.parse(values)
    assert words in caught.value.message


def test_the_final_figures_are_those_of_the_run_directory(run_folder: RunFolder) -> None:  # noqa: F811
    figures = final_figures.final_figures(run_folder.path)
    metrics = json.loads((run_folder.path / "metrics.json").read_text())["models"]
    for model in ("teacher", "student"):
        assert figures[f"{model}/fid"] == metrics[model]["fid"]
    assert figures["student/parameters"] < figures["teacher/parameters"]
    assert [name for name in figures if name.startswith("speedup")] in (["speedup"], ["speedup_unstable"])


def test_the_final_figures_reach_the_loggers(config: BuildConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    run = build(config)
    figures = {"student/fid": 2.0, "student/recall": 0.5, "speedup": 7.0}
    monkeypatch.setattr(final_figures, "final_figures", lambda directory: figures)
    log_final_figures(resolve_inputs(config, Reporter()), run.record, Reporter())
    last = logged(run.directory / "logs" / "csv")[-1]
    assert {name: float(last[name]) for name in figures} == figures and last["step"] == "2"
