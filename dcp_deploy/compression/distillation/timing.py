"""How long a distillation will take, by steps of every kind that it has, timed on copies that are thrown away."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace

from .recipe import Terms, terms_at
from .state import TrainingSetup, TrainingState
from .step import train_step
from .step_graph import StepGraph, can_be_captured
from .task import Task
from .team import ALONE

PATIENCE = 30.0  # seconds after which kinds not timed yet are taken to last as long as the slowest so far
_ROUNDS, _GRAPH_ROUNDS = 2, 6  # the first ones warm up, and capture the graph


@dataclass(frozen=True)
class Expected:
    """Seconds that the ``steps`` still to do will take, without measuring, saving and other processes' messages."""

    seconds: float
    steps: int
    timed: int
    """How many steps this was told from."""


def expected_time(task: Task, run: TrainingSetup, done: int) -> Expected:
    """Time one step of each kind, and count the kinds from step ``done`` on.

    With several devices a share of the batch is timed on this one.
    """
    config = replace(task.config, batch=task.config.batch // run.team.size)
    run = replace(run, config=config, team=ALONE)
    counts = Counter(terms_at(config, step) for step in range(done, config.steps))
    first = {terms_at(config, step): step for step in reversed(range(done, config.steps))}
    state = replace(task, config=config).state(run.device)
    seconds: dict[Terms, float] = {}
    begin, timed = time.perf_counter(), 0
    for kind, _ in counts.most_common():
        if time.perf_counter() - begin < PATIENCE:
            seconds[kind], rounds = _timed(state, run, first[kind])
            timed += rounds
    slowest = max(seconds.values(), default=0.0)
    total = sum(count * seconds.get(kind, slowest) for kind, count in counts.items())
    return Expected(total, config.steps - done, timed)


def _timed(state: TrainingState, run: TrainingSetup, step: int) -> tuple[float, int]:
    """Seconds of this step once it runs smoothly, and how often it ran for that; once is enough for a slow one."""
    captured = can_be_captured(run)
    take, rounds = (StepGraph(), _GRAPH_ROUNDS) if captured else (train_step, _ROUNDS)
    times: list[float] = []
    while len(times) < rounds and max(times, default=0.0) < PATIENCE / 4:
        state.step = step
        begin = time.perf_counter()
        take(state, run)  # returns numbers, so the GPU has done its work
        times.append(time.perf_counter() - begin)
    return times[-1], len(times)
