"""The time that a training will take, told before it starts."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from dcp_deploy.compression import DistillConfig, DistillResult, distill
from dcp_deploy.compression.distillation import timing
from dcp_deploy.compression.distillation.state import TrainingSetup, TrainingState
from dcp_deploy.compression.distillation.task import Task
from dcp_deploy.compression.distillation.team import ALONE
from dcp_deploy.compression.distillation.timing import Expected, expected_time
from dcp_deploy.generators import Generator
from dcp_deploy.pipeline.distilling import expected_words

from ..conftest import EVERYTHING, assert_same_weights, pruned

SECONDS = {"plain": 0.002, "path": 0.004, "penalty": 0.010}


def pretend(state: TrainingState, setup: TrainingSetup) -> dict[str, float]:
    """A step that lasts as long as its kind."""
    path, penalty = state.step % 4 == 0, state.step % 16 == 0
    time.sleep(SECONDS["penalty" if penalty else "path" if path else "plain"])
    return {}


def test_every_kind_of_step_counts_as_often_as_it_comes(
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


def test_a_slow_step_is_timed_once_and_stands_for_the_others(
    small_teacher: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "train_step", pretend)
    monkeypatch.setattr(timing, "PATIENCE", 0.001)
    task = Task(pruned(small_teacher), small_teacher, DistillConfig(steps=100, batch=4, perceptual=0))
    expected = expected_time(task, task.setup(torch.device("cpu"), ALONE), 0)
    assert expected.timed == 1
    assert expected.seconds >= 100 * SECONDS["plain"]


def test_it_is_told_once_before_the_first_step_and_changes_nothing(tmp_path: Path, small_teacher: Generator) -> None:
    student, expected, steps = pruned(small_teacher), list[Expected](), list[int]()

    def expect(found: Expected) -> None:
        assert not steps
        expected.append(found)

    def train(folder: str, *, stop: int | None = None) -> DistillResult:
        def progress(step: int, total: int, values: dict[str, float]) -> None:
            steps.append(step)
            if step == stop:
                raise KeyboardInterrupt

        steps.clear()
        return distill(
            student, small_teacher, config=EVERYTHING, checkpoint_dir=tmp_path / folder, expect=expect,
            progress=progress,
        )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        train("a", stop=3)
    resumed = train("a")
    train("a")  # there is nothing to do
    assert [found.steps for found in expected] == [6, 4]
    assert all(found.seconds > 0 for found in expected)
    assert_same_weights(resumed.generator, distill(student, small_teacher, config=EVERYTHING).generator)


def test_the_words_say_where_the_time_comes_from() -> None:
    words = expected_words(Expected(seconds=288.0, steps=1800, timed=2))
    assert words.startswith("distill: 1800 steps, about 5 min (0.16 s each, by 2 steps timed here just now")
