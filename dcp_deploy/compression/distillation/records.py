"""What a distillation writes down: the history, the best average so far, TensorBoard's files."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...errors import MissingCapabilityError, UsageError
from ...generators import Generator
from . import losses
from .state import Best, TrainingSetup, TrainingState

if TYPE_CHECKING:
    from .task import Task

Measure = Callable[[Generator], Mapping[str, float]]
"""Figures of a student, by names that no loss has. It must leave the student, and torch's global state, as they are."""


class Records:
    """Kept by one process only, and with the state: a resumed run goes on with them."""

    def __init__(self, task: Task, measure: Measure | None, tensorboard: Path | None) -> None:
        self._measure, self._measure_at, self._keep_best = measure, task.measure_at, task.keep_best
        self._config, self._folder = task.config, tensorboard
        self._board: Board | None = None

    def begin(self, state: TrainingState, run: TrainingSetup) -> None:
        """Of a new run, write the entry before the first step."""
        if self._folder is not None:
            self._board = Board(self._folder, state.step)
        if not state.step:
            self._write(state, run, {})

    def add(self, state: TrainingState, run: TrainingSetup, values: Mapping[str, float]) -> None:
        """Add the step to the running sums; every ``log_every`` steps, at the end, and where there is something to
        measure turn them into a history entry."""
        for name, value in values.items():
            running = state.sums.setdefault(name, [0.0, 0])
            running[0] += value
            running[1] += 1
        config = self._config
        if state.step % config.log_every == 0 or state.step == config.steps or state.step in self._measure_at:
            self._write(state, run, {name: total / count for name, (total, count) in state.sums.items()})
            state.sums = {}

    def close(self) -> None:
        """Everything is on the disk after this."""
        if self._board is not None:
            self._board.close()

    def _write(self, state: TrainingState, run: TrainingSetup, means: Mapping[str, float]) -> None:
        entry = {"step": state.step, "l1_to_teacher": _probe_distance(state.ema, run), **means}
        if self._measure is not None and state.step in self._measure_at:
            entry |= self._measure(state.ema)
        state.history.append(entry)
        self._compare(state, entry)
        if self._board is not None:
            self._board.add(state, run, entry)

    def _compare(self, state: TrainingState, entry: Mapping[str, float]) -> None:
        """Keep the average if it is the best so far; an entry without the figure, or with NaN, is passed over."""
        name = self._keep_best
        if name is None:
            return
        if name not in entry and (self._measure is None or state.step in self._measure_at):
            raise UsageError(
                f"keep_best is {name!r}, which no entry of the history has", f"choose one of {', '.join(entry)}"
            )
        value = entry.get(name, math.nan)
        if state.best is None or value < state.best.value:
            if math.isnan(value):
                return
            weights = {key: tensor.detach().clone() for key, tensor in state.ema.state_dict().items()}
            state.best = Best(state.step, value, weights)


@torch.no_grad()
def _probe_distance(generator: Generator, run: TrainingSetup) -> float:
    z, c, images = run.probe
    return losses.l1_loss(generator(z, c), images).item()


def not_finite(values: Mapping[str, float]) -> str | None:
    """The first loss that is NaN or infinite, in words."""
    return next((f"the {name} loss" for name, value in values.items() if not math.isfinite(value)), None)


GRIDS = 20  # at most, over a training


COLUMNS = 8


class Board:
    """Writes what a history entry holds as scalars and, now and then, the teacher's images above the student's."""

    def __init__(self, folder: Path, step: int) -> None:
        """``step``: where the training starts; what an earlier run wrote of later ones is hidden."""
        if importlib.util.find_spec("tensorboard") is None:
            raise MissingCapabilityError(
                f"writing TensorBoard's files to {folder} needs tensorboard", "pip install 'dcp-deploy[train]'"
            )
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else 0)
        self._next_grid = step

    def add(self, state: TrainingState, run: TrainingSetup, entry: Mapping[str, float]) -> None:
        """One history entry, on the disk when this returns: a killed run loses none."""
        step = state.step
        for name, value in entry.items():
            if name != "step":
                self._writer.add_scalar(name, value, step)
        self._writer.add_scalar("learning_rate", run.config.learning_rate(step), step)
        if step >= self._next_grid or step == run.config.steps:
            self._next_grid = step + max(run.config.steps // GRIDS, 1)
            self._writer.add_image("teacher above student", _grid(state, run), step)
        self._writer.flush()

    def close(self) -> None:
        """No more entries."""
        self._writer.close()


@torch.no_grad()
def _grid(state: TrainingState, run: TrainingSetup) -> Tensor:
    """uint8 [3, 2 R, 8 R]: the first probe latents by the teacher, and by the average below."""
    z, c, images = run.probe
    drawn = state.ema(z[:COLUMNS], None if c is None else c[:COLUMNS])
    rows = [torch.cat(list(row), dim=2) for row in (images[:COLUMNS], drawn)]
    return (torch.cat(rows, dim=1) * 127.5 + 128).clamp(0, 255).to(torch.uint8).cpu()
