"""Loggers of a training: CSV, TensorBoard, Weights & Biases and MLflow, by Lightning's classes.

A logger never decides anything. If one fails, its error is said once and the training goes on; what waits for it is
tried again now and then. A training that continues goes on with the same runs: their ids are kept in a file.
"""

from __future__ import annotations

import csv
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import urlsplit

from ..errors import MissingCapabilityError, UsageError, choose
from ..files import read_json, write_json

if TYPE_CHECKING:
    import numpy as np
    from lightning_fabric.loggers.logger import Logger

Kind = Literal["csv", "tensorboard", "wandb", "mlflow"]

RETRY = 600.0
"""Seconds until a logger that failed is tried again."""
_TIMEOUT = 60  # seconds to wait for a server
_PROJECT = "dcp-deploy"
_EXTRA = {"csv": "train", "tensorboard": "train", "wandb": "wandb", "mlflow": "mlflow"}
_PACKAGES = {
    "csv": ("lightning_fabric",),
    "tensorboard": ("lightning_fabric", "tensorboard"),
    "wandb": ("pytorch_lightning", "wandb"),
    "mlflow": ("pytorch_lightning", "mlflow", "sqlalchemy", "alembic"),
}
_LOUD = ("alembic", "lightning_fabric", "mlflow", "pytorch_lightning")
_log = logging.getLogger("dcp_deploy")


def parse_logger(text: str) -> tuple[Kind, str]:
    """Return the kind and the place of "csv", "csv=FOLDER", "wandb=PROJECT" or "mlflow=ADDRESS"; "" without a place.

    Raises UsageError for an unknown kind, and for a place that cannot be or holds a password.
    """
    kind, equals, place = text.partition("=")
    if kind not in get_args(Kind):
        raise UsageError(f"{kind!r} is not a logger", choose(kind, get_args(Kind)))
    if equals and not place:
        raise UsageError(f"the logger {text!r} names no place", f"Write {kind} alone, or a place after '='.")
    if kind in ("csv", "tensorboard") and Path(place).is_file():
        raise UsageError(f"the logger {text!r} names a file", "Give a folder; it need not exist yet.")
    if kind == "mlflow" and place:
        address = urlsplit(place)
        if address.password is not None:
            raise UsageError(
                "the address of the logger mlflow holds a password, which would be written into the run's files",
                "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead.",
            )
        if not address.scheme and place != "databricks":
            raise UsageError(
                f"the logger {text!r} names no tracking server",
                "Write mlflow=http://HOST:PORT or mlflow=sqlite:///FILE.",
            )
    return kind, place  # type: ignore[return-value]  # one of Kind


def check_loggers(loggers: Sequence[str | Logger]) -> None:
    """Raise UsageError for a name that is not a logger, MissingCapabilityError if its packages are not installed."""
    for text in loggers:
        if not isinstance(text, str):
            continue
        kind, _ = parse_logger(text)
        for package in _PACKAGES[kind]:
            if find_spec(package) is None:
                raise MissingCapabilityError(
                    f"the logger {kind} needs the package {package}, which is not installed",
                    f"Install it: pip install 'dcp-deploy[{_EXTRA[kind]}]'",
                )


class TrainingLoggers:
    """The loggers of one training, by name ("wandb=faces") or as objects with the interface of Lightning's Logger.

    ``folder`` is where files go that have no other place, ``settings`` are logged beside the recipe, and ``record`` is
    the file that keeps the ids of the runs; without it every training begins runs of its own. ``say`` is called with
    one line on where each logger writes, and one if it fails; by default only failures are logged, by
    ``logging.getLogger("dcp_deploy")``.
    """

    def __init__(
        self,
        loggers: Sequence[str | Logger],
        folder: Path,
        *,
        record: Path | None = None,
        settings: Mapping[str, Any] | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        check_loggers(loggers)
        self._loggers, self._folder, self._say = list(loggers), folder, say
        self.record, self._settings = record, dict(settings or {})
        self._sinks: list[_Sink] = []

    def begin(self, step: int, settings: Mapping[str, Any]) -> None:
        """Prepare for a training that has finished ``step`` steps; its settings go to each logger that is new to it."""
        for logger in self._loggers:
            sink = _Sink(logger, self._folder, self.record, step, self._say)
            self._sinks.append(sink)
            sink.hyperparameters({**settings, **self._settings})

    def log(self, step: int, figures: Mapping[str, float], pictures: Mapping[str, np.ndarray] | None = None) -> None:
        """Log the figures of a step, and pictures uint8 [H, W, 3], in each logger that does not have that step yet."""
        for sink in self._sinks:
            sink.log(step, figures, pictures or {})

    def summarise(self, step: int, figures: Mapping[str, float]) -> None:
        """Log the figures that are known in the end, once."""
        for sink in self._sinks:
            sink.summarise(step, figures)

    def close(self, *, finished: bool) -> None:
        """End all runs; ``finished`` says whether the training came to its end."""
        for sink in self._sinks:
            sink.close("success" if finished else "failed")
        self._sinks = []


class _Sink:
    """One logger: the run that it continues, and what waits until it can be reached."""

    def __init__(
        self,
        logger: str | Logger,
        folder: Path,
        record: Path | None,
        step: int,
        say: Callable[[str], None] | None,
    ) -> None:
        self._name = logger if isinstance(logger, str) else type(logger).__name__
        self._given, self._folder, self._say = logger, folder, say
        self._record = record if isinstance(logger, str) else None
        self._known = _read(self._record).get(self._name, {})
        self._step = step
        # In files, what a killed run wrote of later steps is left out; a server keeps it.
        last = self._known.get("step", -1)
        self._last = min(last, step) if self._name.startswith(("csv", "tensorboard")) else last
        self._logger: Logger | None = None
        self._waiting: list[Callable[[Logger], None]] = []
        self._not_before, self._failed = 0.0, False

    def hyperparameters(self, settings: Mapping[str, Any]) -> None:
        if "id" not in self._known:
            self._send(lambda logger: _log_settings(logger, settings))

    def log(self, step: int, figures: Mapping[str, float], pictures: Mapping[str, np.ndarray]) -> None:
        if step <= self._last:
            return

        def send(logger: Logger) -> None:
            logger.log_metrics(dict(figures), step)
            for name, pixels in pictures.items():
                _show(logger, name, pixels, step)
            logger.save()
            self._remember(step=step)

        self._last = step
        self._send(send)

    def summarise(self, step: int, figures: Mapping[str, float]) -> None:
        if self._known.get("summary") == dict(figures):
            return

        def send(logger: Logger) -> None:
            logger.log_metrics(dict(figures), step)
            logger.save()
            self._remember(summary=dict(figures))

        self._send(send)

    def close(self, status: str) -> None:
        def send(logger: Logger) -> None:
            logger.finalize(status)
            experiment = _experiment(logger)
            if logger is not self._given and hasattr(experiment, "finish"):  # wandb's, which Lightning leaves open
                experiment.finish(0 if status == "success" else 1)

        if self._logger is not None or self._waiting:
            self._not_before = 0.0
            self._send(send)

    def _send(self, action: Callable[[Logger], None]) -> None:
        """Do all that waits, then ``action``. If the logger fails, say so once; both wait for a later try."""
        self._waiting.append(action)
        if time.monotonic() < self._not_before:
            return
        try:
            with _quiet():
                if self._logger is None:
                    self._open()
                assert self._logger is not None
                while self._waiting:
                    self._waiting[0](self._logger)
                    del self._waiting[0]
        except Exception as error:  # each package has errors of its own, and none of them may end the training
            self._not_before = time.monotonic() + RETRY
            if not self._failed:
                words = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                (self._say or _log.warning)(f"logger {self._name}: {words}; the training goes on without it")
            self._failed = True

    def _open(self) -> None:
        if isinstance(self._given, str):
            kind, place = parse_logger(self._given)
            self._folder.mkdir(parents=True, exist_ok=True)
            logger, where = _OPEN[kind](place, self._folder, self._known.get("id"), self._step)
            self._remember(id=str(logger.version))
            if self._say is not None:
                self._say(f"logger {self._name}: {where(logger)}")
            self._logger = logger
        else:
            self._logger = self._given

    def _remember(self, **facts: Any) -> None:
        self._known = {**self._known, **facts}
        if self._record is not None:
            write_json(self._record, {**_read(self._record), self._name: self._known})


def _read(record: Path | None) -> dict[str, Any]:
    """Return what is recorded of the runs; a file that cannot be read costs new runs."""
    try:
        found = read_json(record) if record is not None else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and all(isinstance(one, dict) for one in found.values()) else {}


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the block, hide warnings and notes of the packages, keep standard output clean, and wait for no server."""
    levels = {name: logging.getLogger(name).level for name in _LOUD}
    environment = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(_TIMEOUT), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    environment["WANDB_SILENT"] = "true"
    added = [name for name in environment if name not in os.environ]
    try:
        for name in _LOUD:
            logging.getLogger(name).setLevel(logging.ERROR)
        os.environ.update({name: environment[name] for name in added})
        with warnings.catch_warnings(), redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for name in added:
            os.environ.pop(name, None)


# ---- what Lightning's classes do not do alike ----


def _experiment(logger: Logger) -> Any:
    """Return the object of the package behind a logger; None for a class that has none."""
    return getattr(logger, "experiment", None)


def _log_settings(logger: Logger, settings: Mapping[str, Any]) -> None:
    values = {name: value for name, value in settings.items() if value is not None}
    experiment = _experiment(logger)
    if hasattr(experiment, "metrics_file_path"):  # Fabric's CSVLogger refuses them
        write_json(Path(experiment.metrics_file_path).with_name("settings.json"), values)
    elif hasattr(experiment, "add_hparams"):  # TensorBoard's, which Lightning takes only with a figure and its value
        from torch.utils.tensorboard.summary import hparams

        simple = {name: value if isinstance(value, int | float | str) else str(value) for name, value in values.items()}
        for summary in hparams(simple, {"l1_to_teacher": 0.0}):  # type: ignore[no-untyped-call]
            experiment._get_file_writer().add_summary(summary)
    else:
        logger.log_hyperparams(values)


def _show(logger: Logger, name: str, pixels: np.ndarray, step: int) -> None:
    """Log a picture, where the logger can."""
    experiment = _experiment(logger)
    if hasattr(logger, "log_image"):  # Weights & Biases
        logger.log_image(name, [pixels], step=step)
    elif hasattr(experiment, "add_image"):  # TensorBoard
        experiment.add_image(name, pixels, step, dataformats="HWC")
    elif hasattr(experiment, "log_image"):  # MLflow
        experiment.log_image(logger.version, pixels, key=name.replace(" ", "_"), step=step)


_Opened = tuple["Logger", Callable[["Logger"], str]]


def _version(folder: Path, pattern: str) -> str:
    """Return the subfolder for a new run: none if no other run lies there."""
    taken = [path for path in (folder, *folder.glob("version_*")) if any(path.glob(pattern))]
    return f"version_{len(taken)}" if taken else ""


def _open_csv(place: str, folder: Path, version: str | None, step: int) -> _Opened:
    from lightning_fabric.loggers.csv_logs import CSVLogger

    root = Path(place or folder / "csv")
    logger = CSVLogger(root, name="", version=_version(root, "metrics.csv") if version is None else version,
                       flush_logs_every_n_steps=1)  # fmt: skip
    kept = _rows(Path(logger.log_dir) / "metrics.csv", step)
    logger.experiment.metrics += kept  # opening it has emptied the file
    logger.save()
    return logger, lambda logger: str(Path(logger.experiment.metrics_file_path))


def _rows(file: Path, step: int) -> list[dict[str, float]]:
    """Return the rows of a CSV file up to a step; a row that a kill cut off is left out."""
    if not file.is_file():
        return []
    rows = []
    with file.open(newline="", encoding="utf-8") as content:
        for row in csv.DictReader(content):
            try:
                values = {name: float(text) for name, text in row.items() if text}
                values["step"] = int(row["step"])
            except (TypeError, ValueError, KeyError):
                continue
            if values["step"] <= step:
                rows.append(values)
    return rows


def _open_tensorboard(place: str, folder: Path, version: str | None, step: int) -> _Opened:
    from lightning_fabric.loggers.tensorboard import TensorBoardLogger

    root = Path(place or folder / "tensorboard")
    named = _version(root, "events.out.tfevents*") if version is None else version
    # What a killed run wrote of later steps is hidden.
    logger = TensorBoardLogger(root, name="", version=named, purge_step=step + 1 if version is not None else None)
    return logger, lambda logger: f"tensorboard --logdir {root}"


def _open_wandb(place: str, folder: Path, version: str | None, step: int) -> _Opened:
    import wandb
    from pytorch_lightning.loggers import WandbLogger

    entity, _, project = place.rpartition("/")
    whose: dict[str, Any] = {"entity": entity} if entity else {}
    logger = WandbLogger(
        project=project or os.environ.get("WANDB_PROJECT", _PROJECT),
        name=os.environ.get("WANDB_NAME", folder.absolute().parent.name),
        save_dir=folder,
        version=version,
        settings=wandb.Settings(silent=True, console="off", init_timeout=_TIMEOUT, finish_timeout=2 * _TIMEOUT),
        **whose,
    )
    assert logger.experiment is not None  # connects
    return logger, lambda logger: logger.experiment.url or f"offline; upload it: wandb sync {logger.experiment.dir}"


def _open_mlflow(place: str, folder: Path, version: str | None, step: int) -> _Opened:
    from pytorch_lightning.loggers import MLFlowLogger

    address = place or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.absolute() / 'mlflow.db'}"
    local = address.startswith("sqlite:")
    logger = MLFlowLogger(
        experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT),
        run_name=os.environ.get("MLFLOW_RUN_NAME", folder.absolute().parent.name),
        tracking_uri=address,
        artifact_location=(folder.absolute() / "mlflow-artifacts").as_uri() if local else None,
        run_id=version,
    )
    assert logger.run_id is not None  # connects
    return logger, lambda logger: f"run {logger.version} at {address}"


_OPEN: dict[Kind, Callable[[str, Path, str | None, int], _Opened]] = {
    "csv": _open_csv,
    "tensorboard": _open_tensorboard,
    "wandb": _open_wandb,
    "mlflow": _open_mlflow,
}
