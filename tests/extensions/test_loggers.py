"""Loggers of a training, each read back by its own reader."""

from __future__ import annotations

import csv
import json
import logging
import os
import struct
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from importlib import util
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dcp_deploy.compression import DistillResult, distill
from dcp_deploy.errors import MissingCapabilityError, UsageError
from dcp_deploy.extensions import loggers
from dcp_deploy.extensions.loggers import TrainingLoggers, check_loggers, parse_logger
from dcp_deploy.generators import Generator

from ..compression.conftest import EVERYTHING, assert_same_weights, distill_until, make_small_teacher, pruned

CONFIG = replace(EVERYTHING, log_every=1)  # a step between two checkpoints is logged, and lost with a kill
STEPS = list(range(7))
NAMES = ("l1_to_teacher", "l1", "gan", "relation", "total", "discriminator", "learning_rate", "images_per_second")


@pytest.fixture(scope="module")
def teacher() -> Generator:
    return make_small_teacher()


@pytest.fixture(scope="module")
def plain(teacher: Generator) -> DistillResult:
    """The training without loggers."""
    return distill(pruned(teacher), teacher, config=CONFIG)


@pytest.fixture
def offline_wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    if util.find_spec("wandb") is None:
        pytest.skip("wandb is not installed: pip install 'dcp-deploy[wandb]'")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "wandb cache"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own packages
        import wandb

        yield
        wandb.teardown()


@pytest.fixture
def mlflow_client(monkeypatch: pytest.MonkeyPatch) -> Any:
    for package in ("mlflow", "sqlalchemy"):
        if util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'dcp-deploy[mlflow]'")
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.tracking import MlflowClient
    return MlflowClient


def train_twice(teacher: Generator, folder: Path, *names: str) -> DistillResult:
    """Train, are killed after five steps (the checkpoint has four), and train to the end."""
    options: dict[str, Any] = {"config": CONFIG, "checkpoint_dir": folder, "loggers": names}
    distill_until(5, pruned(teacher), teacher, **options)
    return distill(pruned(teacher), teacher, **options)


# ---- what the loggers hold ----


def test_csv_holds_every_figure_once_and_the_student_is_the_same(
    tmp_path: Path, teacher: Generator, plain: DistillResult
) -> None:
    result = train_twice(teacher, tmp_path, "csv")
    assert_same_weights(result.generator, plain.generator)
    assert result.history == plain.history
    with (tmp_path / "logs" / "csv" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == STEPS
    for row, entry in zip(rows, plain.history, strict=True):
        assert {name: float(row[name]) for name in entry} == entry
        assert float(row["learning_rate"]) == CONFIG.learning_rate(int(entry["step"]))
    assert all(float(row["images_per_second"]) > 0 for row in rows[1:])  # of the killed run's steps too
    settings = json.loads((tmp_path / "logs" / "csv" / "settings.json").read_text())
    assert settings["l1"] == 3.0 and settings["batch"] == 4 and settings["student_parameters"] > 0


def test_tensorboard_holds_figures_pictures_and_the_recipe(
    tmp_path: Path, teacher: Generator, plain: DistillResult
) -> None:
    result = train_twice(teacher, tmp_path, f"tensorboard={tmp_path / 'board'}")
    assert_same_weights(result.generator, plain.generator)
    board = EventAccumulator(str(tmp_path / "board"), size_guidance={"images": 0}).Reload()
    assert set(NAMES) <= set(board.Tags()["scalars"])
    events = board.Scalars("total")
    assert [event.step for event in events] == STEPS[1:]
    assert [event.value for event in events] == pytest.approx([entry["total"] for entry in plain.history[1:]], rel=1e-6)
    assert [picture.step for picture in board.Images("teacher above student")] == STEPS
    assert {"_hparams_/experiment", "_hparams_/session_start_info"} <= set(board.summary_metadata)


@pytest.mark.slow
def test_wandb_continues_its_run_offline(
    tmp_path: Path, teacher: Generator, plain: DistillResult, offline_wandb: None
) -> None:
    assert_same_weights(train_twice(teacher, tmp_path, "wandb=faces").generator, plain.generator)
    (known,) = json.loads(next(tmp_path.glob("*.loggers.json")).read_text()).values()
    runs = sorted((tmp_path / "logs" / "wandb").glob("offline-run-*"))
    assert len(runs) == 2 and all(run.name.endswith(known["id"]) for run in runs)
    figures = [record for run in runs for record in wandb_history(run / f"run-{known['id']}.wandb")]
    seen = [record for record in figures if "total" in record]
    assert [record["trainer/global_step"] for record in seen] == STEPS[1:]
    assert [record["total"] for record in seen] == [entry["total"] for entry in plain.history[1:]]
    assert any(name.startswith("teacher above student") for record in figures for name in record)
    assert list((runs[0] / "files" / "media" / "images").glob("*.png"))


def wandb_history(file: Path) -> list[dict[str, Any]]:
    """Read the figures of a run's file, a log in LevelDB's format, with wandb's own messages."""
    from wandb.proto import wandb_internal_pb2

    content, place, block, found, parts = file.read_bytes(), 7, 32768, list[dict[str, Any]](), b""
    assert content.startswith(b":W&B")
    while place + 7 <= len(content):
        if block - place % block < 7:  # the end of a block is too short for a header
            place += block - place % block
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record.FromString(parts)
            parts = b""
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                found.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return found


@pytest.mark.slow
def test_mlflow_holds_figures_pictures_and_the_recipe_in_a_local_database(
    tmp_path: Path, teacher: Generator, plain: DistillResult, mlflow_client: Any
) -> None:
    assert_same_weights(train_twice(teacher, tmp_path, "mlflow").generator, plain.generator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = mlflow_client(f"sqlite:///{tmp_path / 'logs' / 'mlflow.db'}")
        (experiment,) = (found for found in client.search_experiments() if found.name == "dcp-deploy")
        (run,) = client.search_runs([experiment.experiment_id])
        total = client.get_metric_history(run.info.run_id, "total")
        pictures = client.list_artifacts(run.info.run_id, "images")
    assert run.info.status == "FINISHED"
    assert sorted(metric.step for metric in total) == STEPS[1:]
    assert {m.step: m.value for m in total} == {entry["step"]: entry["total"] for entry in plain.history[1:]}
    assert set(NAMES) <= set(run.data.metrics) and run.data.params["l1"] == "3.0"
    assert pictures and not list(tmp_path.glob("mlruns")) and (tmp_path / "logs" / "mlflow-artifacts").is_dir()


def test_a_logger_that_joins_a_training_that_continues_gets_what_came_before(
    tmp_path: Path, teacher: Generator
) -> None:
    distill_until(5, pruned(teacher), teacher, config=CONFIG, checkpoint_dir=tmp_path)
    distill(pruned(teacher), teacher, config=CONFIG, checkpoint_dir=tmp_path, loggers=["csv"])
    with (tmp_path / "logs" / "csv" / "metrics.csv").open(newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == STEPS


def test_another_training_does_not_write_into_the_folder_of_the_first(tmp_path: Path, teacher: Generator) -> None:
    for seed in (0, 1):
        distill(
            pruned(teacher), teacher, config=replace(CONFIG, steps=1, gan_start=0, seed=seed), checkpoint_dir=tmp_path,
            loggers=["csv"],
        )  # fmt: skip
    assert {file.parent.name for file in (tmp_path / "logs").rglob("metrics.csv")} == {"csv", "version_1"}


def test_an_object_with_lightnings_interface_is_a_logger(tmp_path: Path, teacher: Generator) -> None:
    from lightning_fabric.loggers.csv_logs import CSVLogger

    own = CSVLogger(tmp_path, name="mine", flush_logs_every_n_steps=1)
    distill(pruned(teacher), teacher, config=replace(CONFIG, steps=2, gan_start=0), loggers=[own])
    assert (tmp_path / "mine" / "version_0" / "metrics.csv").read_text().count("\n") == 4


# ---- failures ----


class Unreachable:
    """A logger whose server fails for some calls."""

    def __init__(self, failures: int) -> None:
        self.failures, self.steps = failures, list[int]()

    def log_hyperparams(self, values: dict[str, Any]) -> None: ...
    def save(self) -> None: ...
    def finalize(self, status: str) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the server is gone")
        self.steps.append(step)


def test_a_server_that_fails_is_named_once_and_the_training_goes_on(
    teacher: Generator, plain: DistillResult, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Unreachable(1000)
    with caplog.at_level(logging.WARNING, "dcp_deploy"):
        result = distill(pruned(teacher), teacher, config=CONFIG, loggers=[broken])  # type: ignore[list-item]
    assert_same_weights(result.generator, plain.generator)
    said = [record.message for record in caplog.records if "logger" in record.message]
    assert said == ["logger Unreachable: ConnectionError: the server is gone; the training goes on without it"]
    assert broken.steps == []


def test_a_server_that_comes_back_gets_all_figures_in_order(
    teacher: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers, "RETRY", 0.0)
    broken = Unreachable(3)
    distill(pruned(teacher), teacher, config=CONFIG, loggers=[broken])  # type: ignore[list-item]
    assert broken.steps == STEPS


def test_a_server_that_failed_is_left_alone_for_a_while_and_tried_once_more_in_the_end(teacher: Generator) -> None:
    broken = Unreachable(1)
    distill(pruned(teacher), teacher, config=CONFIG, loggers=[broken])  # type: ignore[list-item]
    assert broken.steps == STEPS and not broken.failures


@pytest.mark.slow
@pytest.mark.parametrize("server", ["mlflow=http://127.0.0.1:9", "wandb"])
def test_nobody_at_the_address_does_not_fail_the_training(
    tmp_path: Path, server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    request.getfixturevalue("offline_wandb" if server == "wandb" else "mlflow_client")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(loggers, "_TIMEOUT", 1)
    said: list[str] = []
    found = TrainingLoggers([server], tmp_path, say=said.append)
    found.begin(0, {"l1": 3.0})
    found.log(0, {"total": 1.0})
    found.close(finished=True)
    assert len(said) == 1 and said[0].startswith(f"logger {server}: ") and "the training goes on" in said[0]


def test_a_record_of_runs_that_cannot_be_read_costs_a_new_run(tmp_path: Path) -> None:
    for content in ("", "[]", '{"csv": 3}', '{"csv": {'):
        (tmp_path / "runs.json").write_text(content)
        found = TrainingLoggers(["csv"], tmp_path / "logs", record=tmp_path / "runs.json")
        found.begin(0, {})
        found.log(0, {"total": 1.0})
        found.close(finished=True)
        assert json.loads((tmp_path / "runs.json").read_text())["csv"]["step"] == 0


def test_a_row_that_a_kill_cut_off_is_left_out(tmp_path: Path) -> None:
    for step in (0, 1):
        found = TrainingLoggers(["csv"], tmp_path, record=tmp_path / "runs.json")
        found.begin(step, {})
        found.log(step, {"total": float(step), "l1": 0.5})
        found.close(finished=False)
        file = tmp_path / "csv" / "metrics.csv"
        file.write_text(file.read_text() + "0.2")
    with file.open(newline="") as content:
        assert [(row["step"], row["total"]) for row in csv.DictReader(content)][:2] == [("0", "0.0"), ("1", "1.0")]


def test_final_figures_are_logged_once(tmp_path: Path) -> None:
    for _ in range(2):
        found = TrainingLoggers(["csv"], tmp_path, record=tmp_path / "runs.json")
        found.begin(3, {})
        found.log(3, {"total": 1.0})
        found.summarise(3, {"student/fid": 2.0})
        found.close(finished=True)
    with (tmp_path / "csv" / "metrics.csv").open(newline="") as content:
        rows = list(csv.DictReader(content))
    assert [(row["step"], row["total"], row["student/fid"]) for row in rows] == [("3", "1.0", ""), ("3", "", "2.0")]


# ---- names ----


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("csv", ("csv", "")),
        ("tensorboard=a b/c", ("tensorboard", "a b/c")),
        ("wandb=team/faces", ("wandb", "team/faces")),
        ("mlflow=sqlite:///runs.db", ("mlflow", "sqlite:///runs.db")),
        ("mlflow=databricks", ("mlflow", "databricks")),
    ],
)
def test_a_logger_is_a_kind_and_a_place(text: str, expected: tuple[str, str]) -> None:
    assert parse_logger(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("wandbb", r"'wandbb' is not a logger\nDid you mean wandb\?"),
        ("", r"'' is not a logger\nChoose one of: csv, tensorboard, wandb, mlflow"),
        ("csv=", "names no place"),
        ("mlflow=runs.db", r"names no tracking server\nWrite mlflow=http"),
        ("mlflow=https://me:secret@host", r"holds a password.*\nSet MLFLOW_TRACKING_USERNAME"),
        (f"csv={__file__}", "names a file"),
    ],
)
def test_another_name_is_a_usage_error(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        parse_logger(text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("csv", "lightning_fabric", "train"),
        ("tensorboard", "tensorboard", "train"),
        ("wandb=faces", "wandb", "wandb"),
        ("mlflow", "mlflow", "mlflow"),
    ],
)
def test_a_missing_package_is_named_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str, extra: str
) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda asked: None if asked == package else object())
    with pytest.raises(
        MissingCapabilityError, match=rf"needs the package {package}.*\nInstall it: pip install 'dcp-deploy\[{extra}\]'"
    ):
        check_loggers([name])


def test_naming_a_logger_imports_none_of_them() -> None:
    script = (
        "import sys; from dcp_deploy.extensions.loggers import _PACKAGES, parse_logger, TrainingLoggers\n"
        "for kind in _PACKAGES: parse_logger(kind)\n"
        "TrainingLoggers(['csv', 'tensorboard'], None)\n"
        "loaded = {package for needed in _PACKAGES.values() for package in needed} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
