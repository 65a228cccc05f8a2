"""What a distillation records: the history, the best average so far, and TensorBoard's files."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import MissingCapabilityError, UsageError, choose
from ...generators import Generator
from . import losses
from .state import Best, TrainingSetup, TrainingState
from .task import Task

GRIDS = 20  # at most, over a training
COLUMNS = 8

Measure = Callable[[Generator], Mapping[str, float]]
"""Figures of a student, by names that no loss has. It must leave the student and torch's global state unchanged."""


class Records:
    """The records of one process, kept in the state, so that a resumed run continues them."""

    def __init__(self, task: Task, measure: Measure | None, tensorboard: Path | None) -> None:
        self._measure, self._measure_at, self._keep_best = measure, task.measure_at, task.keep_best
        self._config, self._folder = task.config, tensorboard
        self._board: Any = None

    def begin(self, state: TrainingState, setup: TrainingSetup) -> None:
        """Open TensorBoard's files; for a new run, write the entry before the first step."""
        if self._folder is not None:
            if importlib.util.find_spec("tensorboard") is None:
                raise MissingCapabilityError(
                    f"writing {self._folder} for TensorBoard needs tensorboard",
                    "Install it: pip install 'dcp-deploy[train]'",
                )
            from torch.utils.tensorboard import SummaryWriter

            # What an earlier run wrote of later steps is hidden.
            self._board = SummaryWriter(str(self._folder), purge_step=state.step + 1 if state.step else 0)
            self._next_grid = state.step
        if not state.step:
            self._write(state, setup, {})

    def add(self, state: TrainingState, setup: TrainingSetup, values: Mapping[str, float]) -> None:
        """Add the step to the running sums.

        Every ``log_every`` steps, at the end, and at steps to be measured, turn the sums into a history entry.
        """
        for name, value in values.items():
            running = state.sums.setdefault(name, [0.0, 0])
            running[0] += value
            running[1] += 1
        config = self._config
        if state.step % config.log_every == 0 or state.step == config.steps or state.step in self._measure_at:
            self._write(state, setup, {name: total / count for name, (total, count) in state.sums.items()})
            state.sums = {}

    def close(self) -> None:
        """Close TensorBoard's files."""
        if self._board is not None:
            self._board.close()

    def _write(self, state: TrainingState, setup: TrainingSetup, means: Mapping[str, float]) -> None:
        z, c, images = setup.probe
        with torch.no_grad():
            of_average = state.ema(z, c)
        entry = {"step": state.step, "l1_to_teacher": losses.l1_loss(of_average, images).item(), **means}
        if self._measure is not None and state.step in self._measure_at:
            entry |= self._measure(state.ema)
        state.history.append(entry)
        self._keep_if_best(state, entry)
        if self._board is not None:
            self._show(state.step, entry, images, of_average)

    def _keep_if_best(self, state: TrainingState, entry: Mapping[str, float]) -> None:
        """Keep the average if it is the best so far; entries without the figure, or with NaN, do not count."""
        name = self._keep_best
        if name is None:
            return
        if name not in entry and (self._measure is None or state.step in self._measure_at):
            raise UsageError(f"keep_best is {name!r}, which no entry of the history has", choose(name, entry))
        value = entry.get(name, math.nan)
        if not math.isnan(value) and (state.best is None or value < state.best.value):
            weights = {key: tensor.detach().clone() for key, tensor in state.ema.state_dict().items()}
            state.best = Best(state.step, value, weights)

    def _show(self, step: int, entry: Mapping[str, float], of_teacher: Tensor, of_average: Tensor) -> None:
        """Write the entry to TensorBoard and, now and then, the teacher's images above the average's.

        It is on the disk when this returns: a killed run loses no entry.
        """
        for name, value in entry.items():
            if name != "step":
                self._board.add_scalar(name, value, step)
        self._board.add_scalar("learning_rate", self._config.learning_rate(step), step)
        if step >= self._next_grid or step == self._config.steps:
            self._next_grid = step + max(self._config.steps // GRIDS, 1)
            grid = torch.cat([torch.cat(list(row[:COLUMNS]), dim=2) for row in (of_teacher, of_average)], dim=1)
            pixels = (grid * 127.5 + 128).clamp(0, 255).to(torch.uint8).cpu()  # [3, 2 R, 8 R]
            self._board.add_image("teacher above student", pixels, step)
        self._board.flush()
