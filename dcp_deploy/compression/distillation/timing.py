"""How long a distillation will take: every kind of step that it has is timed on a copy of the state."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace

from ...devices import Choice
from ...distributed.team import ALONE
from .recipe import Terms, terms_at
from .state import TrainingSetup, TrainingState
from .step import train_step
from .step_graph import StepGraph, can_be_captured
from .task import Task

PATIENCE = 30.0  # seconds after which the remaining kinds are taken to be as slow as the slowest so far
_ROUNDS, _GRAPH_ROUNDS = 2, 6  # the first ones warm up, and capture the graph


@dataclass(frozen=True)
class Expected:
    """Seconds that the remaining ``steps`` will take, without measuring, saving and messages between processes."""

    seconds: float
    steps: int
    timed: int
    """Number of steps that were timed."""
    threads: Choice | None = None
    """The CPU threads that the training takes, and why."""


def expected_time(task: Task, setup: TrainingSetup, done: int) -> Expected:
    """Time one step of each kind, and count the kinds from step ``done`` on.

    With several devices, one device's share of the batch is timed on this one.
    """
    config = replace(task.config, batch=task.config.batch // setup.team.size)
    setup = replace(setup, config=config, team=ALONE)
    counts = Counter(terms_at(config, step) for step in range(done, config.steps))
    first = {terms_at(config, step): step for step in reversed(range(done, config.steps))}
    state = replace(task, config=config).state(setup.device)
    seconds: dict[Terms, float] = {}
    begin, timed = time.perf_counter(), 0
    for kind, _ in counts.most_common():
        if time.perf_counter() - begin < PATIENCE:
            seconds[kind], rounds = _timed(state, setup, first[kind])
            timed += rounds
    slowest = max(seconds.values(), default=0.0)
    total = sum(count * seconds.get(kind, slowest) for kind, count in counts.items())
    return Expected(total, config.steps - done, timed)


def _timed(state: TrainingState, setup: TrainingSetup, step: int) -> tuple[float, int]:
    """Return the seconds of this step after warming up, and how often it ran; a slow step runs once."""
    captured = can_be_captured(setup)
    take, rounds = (StepGraph(), _GRAPH_ROUNDS) if captured else (train_step, _ROUNDS)
    times: list[float] = []
    while len(times) < rounds and max(times, default=0.0) < PATIENCE / 4:
        state.step = step
        begin = time.perf_counter()
        take(state, setup)  # returns numbers, so the GPU has finished its work
        times.append(time.perf_counter() - begin)
    return times[-1], len(times)
