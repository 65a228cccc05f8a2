"""The expected time of a training, reported before it starts."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from dcp_deploy.compression import DistillConfig, DistillResult, distill
from dcp_deploy.compression.distillation import timing
from dcp_deploy.compression.distillation.state import TrainingSetup, TrainingState
from dcp_deploy.compression.distillation.task import Task
from dcp_deploy.compression.distillation.timing import Expected, expected_time
from dcp_deploy.devices import Choice
from dcp_deploy.distributed.team import ALONE
from dcp_deploy.generators import Generator
from dcp_deploy.pipeline.distilling import expected_words

from ..conftest import EVERYTHING, assert_same_weights, distill_until, pruned

SECONDS = {"plain": 0.002, "path": 0.004, "penalty": 0.010}
"""Length of each kind of step in :func:`pretend`."""


def pretend(state: TrainingState, setup: TrainingSetup) -> dict[str, float]:
    """Sleep as long as a step of this kind is to last."""
    path, penalty = state.step % 4 == 0, state.step % 16 == 0
    time.sleep(SECONDS["penalty" if penalty else "path" if path else "plain"])
    return {}


def test_every_kind_of_step_counts_as_often_as_it_occurs(
    small_teacher: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "train_step", pretend)
    task = Task(pruned(small_teacher), small_teacher, DistillConfig(steps=1600, batch=4, perceptual=0))
    cpu = torch.device("cpu")
    for done in (0, 800):
        expected = expected_time(task, task.setup(cpu, ALONE), done)
        assert (expected.steps, expected.timed) == (1600 - done, 6)
        exact = (1200 * SECONDS["plain"] + 300 * SECONDS["path"] + 100 * SECONDS["penalty"]) * (1600 - done) / 1600
        assert exact <= expected.seconds < 20 * exact  # sleep() never wakes early, on a busy machine late


def test_a_slow_step_is_timed_once_and_represents_the_others(
    small_teacher: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "train_step", pretend)
    monkeypatch.setattr(timing, "PATIENCE", 0.001)
    task = Task(pruned(small_teacher), small_teacher, DistillConfig(steps=100, batch=4, perceptual=0))
    expected = expected_time(task, task.setup(torch.device("cpu"), ALONE), 0)
    assert expected.timed == 1
    assert expected.seconds >= 100 * SECONDS["plain"]


def test_the_expected_time_is_reported_once_before_the_first_step_and_changes_nothing(
    tmp_path: Path, small_teacher: Generator, finished_run: tuple[DistillResult, Path]
) -> None:
    student, expected, steps = pruned(small_teacher), list[Expected](), list[int]()

    def expect(found: Expected) -> None:
        assert not steps
        expected.append(found)

    options = {"config": EVERYTHING, "checkpoint_dir": tmp_path, "expect": expect}
    distill_until(3, student, small_teacher, **options)
    resumed = distill(student, small_teacher, **options, on_step=lambda step, total, values: steps.append(step))
    steps.clear()
    distill(student, small_teacher, **options)  # there is nothing left to do
    assert [found.steps for found in expected] == [6, 4]
    assert all(found.seconds > 0 for found in expected)
    assert_same_weights(resumed.generator, finished_run[0].generator)


def test_the_message_says_how_the_time_was_measured() -> None:
    words = expected_words(Expected(seconds=288.0, steps=1800, timed=2))
    assert words.startswith("distill: 1800 steps, about 5 min (0.16 s each, by 2 steps timed here just now")


def test_the_message_says_on_how_many_threads() -> None:
    threads = Choice(1, "because other processes take 1.9 of 2 cores")
    words = expected_words(Expected(seconds=288.0, steps=1800, timed=2, threads=threads))
    assert words.endswith("), on 1 CPU thread, because other processes take 1.9 of 2 cores")
