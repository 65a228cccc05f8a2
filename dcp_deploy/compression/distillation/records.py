"""What a distillation writes down: the history, the best average so far, TensorBoard's files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ...errors import UsageError
from ...generators import Generator
from . import losses
from .state import Best, TrainingState
from .training_board import Board
from .training_run import Run

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

    def begin(self, state: TrainingState, run: Run) -> None:
        """Of a new run, write the entry before the first step."""
        if self._folder is not None:
            self._board = Board(self._folder, state.step)
        if not state.step:
            self._write(state, run, {})

    def add(self, state: TrainingState, run: Run, values: Mapping[str, float]) -> None:
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

    def _write(self, state: TrainingState, run: Run, means: Mapping[str, float]) -> None:
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
def _probe_distance(generator: Generator, run: Run) -> float:
    z, c, images = run.probe
    return losses.l1_loss(generator(z, c), images).item()


def not_finite(values: Mapping[str, float]) -> str | None:
    """The first loss that is NaN or infinite, in words."""
    return next((f"the {name} loss" for name, value in values.items() if not math.isfinite(value)), None)
