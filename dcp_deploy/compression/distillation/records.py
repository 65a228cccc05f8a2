"""What a distillation records: the history, the best average so far, and what its loggers show."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from ...errors import UsageError, choose
from ...extensions.loggers import TrainingLoggers
from ...generators import Generator, count_parameters
from . import losses
from .recipe import DistillConfig
from .state import Best, TrainingSetup, TrainingState
from .task import Task

GRIDS = 20  # at most, over a training
COLUMNS = 8

Measure = Callable[[Generator], Mapping[str, float]]
"""Figures of a student, by names that no loss has. It must leave the student and torch's global state unchanged."""


class Records:
    """The records of one process, kept in the state, so that a resumed run continues them. Use it in a ``with``."""

    def __init__(self, task: Task, measure: Measure | None, loggers: TrainingLoggers) -> None:
        self._measure, self._measure_at, self._keep_best = measure, task.measure_at, task.keep_best
        self._config, self._loggers = task.config, loggers
        self._next_grid = self._since = 0
        self._clock = 0.0

    def __enter__(self) -> Records:
        return self

    def __exit__(self, kind: type[BaseException] | None, *about: object) -> None:
        """End the runs of the loggers, however the training ended."""
        self._loggers.close(finished=kind is None)

    def begin(self, state: TrainingState, setup: TrainingSetup) -> None:
        """Begin to log; for a new run, write the entry before the first step."""
        sizes = {
            "teacher_parameters": count_parameters(setup.teacher),
            "student_parameters": count_parameters(state.student),
        }
        self._loggers.begin(state.step, {**self._config.to_dict(), **sizes})
        for entry in state.history:  # a logger that is new to a training that continues gets what came before
            log_entry(self._loggers, self._config, entry)
        self._next_grid = state.step
        if not state.step:
            self._write(state, setup, {})
        self._since, self._clock = state.step, time.perf_counter()

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

    def _write(self, state: TrainingState, setup: TrainingSetup, means: Mapping[str, float]) -> None:
        seconds, steps = time.perf_counter() - self._clock, state.step - self._since
        z, c, images = setup.probe
        with torch.no_grad():
            of_average = state.ema(z, c)
        entry = {"step": state.step, "l1_to_teacher": losses.l1_loss(of_average, images).item(), **means}
        if self._measure is not None and state.step in self._measure_at:
            entry |= self._measure(state.ema)
        state.history.append(entry)
        self._keep_if_best(state, entry)
        speed = {"images_per_second": steps * self._config.batch / seconds} if steps else {}
        pictures = self._pictures(state.step, images, of_average)
        log_entry(self._loggers, self._config, entry, speed, pictures)
        self._since, self._clock = state.step, time.perf_counter()

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

    def _pictures(self, step: int, of_teacher: Tensor, of_average: Tensor) -> dict[str, np.ndarray]:
        """Return now and then the teacher's images above the average's, uint8 [2 R, 8 R, 3]."""
        if step < self._next_grid and step != self._config.steps:
            return {}
        self._next_grid = step + max(self._config.steps // GRIDS, 1)
        grid = torch.cat([torch.cat(list(row[:COLUMNS]), dim=2) for row in (of_teacher, of_average)], dim=1)
        pixels = (grid * 127.5 + 128).clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        return {"teacher above student": pixels}


def log_entry(
    loggers: TrainingLoggers,
    config: DistillConfig,
    entry: Mapping[str, float],
    speed: Mapping[str, float] | None = None,
    pictures: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Log an entry of the history, with what is not in it because it decides nothing or varies between runs."""
    step = int(entry["step"])
    figures = {name: value for name, value in entry.items() if name != "step"}
    figures |= {"learning_rate": config.learning_rate(step), **(speed or {})}
    loggers.log(step, figures, pictures)
