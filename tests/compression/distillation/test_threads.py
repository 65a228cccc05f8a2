"""The CPU threads of a training: chosen once, reported, and kept by a run that continues."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dcp_deploy import devices as threads
from dcp_deploy.compression import DistillResult, distill
from dcp_deploy.compression.distillation import training
from dcp_deploy.compression.distillation.timing import Expected
from dcp_deploy.devices import Choice
from dcp_deploy.errors import UsageError
from dcp_deploy.generators import Generator

from ..conftest import EVERYTHING, assert_same_weights, distill_until, files_in, make_small_teacher, pruned


@pytest.fixture(autouse=True)
def three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Torch computes with three threads, and nobody stated a number."""
    monkeypatch.delenv(threads.VARIABLE, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def loaded(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let the load of the machine leave this many cores free."""
    monkeypatch.setattr(training, "choose_threads", lambda most: Choice(number, "because it is busy"))


def threads_of_steps(teacher: Generator, **options: Any) -> list[int]:
    found: list[int] = []
    distill(
        pruned(teacher), teacher, config=EVERYTHING, on_step=lambda *_: found.append(torch.get_num_threads()), **options
    )
    return found


def test_a_loaded_machine_gets_fewer_threads_for_the_training_only(
    small_teacher: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded(monkeypatch, 1)
    assert threads_of_steps(small_teacher) == [1] * EVERYTHING.steps
    assert torch.get_num_threads() == 3


def test_the_choice_is_reported_before_the_first_step(
    small_teacher: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded(monkeypatch, 1)
    heard: list[Expected] = []
    threads_of_steps(small_teacher, expect=heard.append)
    assert [str(found.threads) for found in heard] == ["1 CPU thread, because it is busy"]


@pytest.fixture(scope="module")
def straight() -> DistillResult:
    """A run with two threads that was never stopped."""
    teacher = make_small_teacher()
    return distill(pruned(teacher), teacher, config=EVERYTHING, threads=2)


@pytest.mark.parametrize("later", [1, 3])
def test_a_resumed_run_keeps_its_number_whatever_the_load_is_by_then(
    tmp_path: Path, small_teacher: Generator, straight: DistillResult, monkeypatch: pytest.MonkeyPatch, later: int
) -> None:
    student, heard = pruned(small_teacher), list[Expected]()
    loaded(monkeypatch, 2)
    distill_until(3, student, small_teacher, config=EVERYTHING, checkpoint_dir=tmp_path)
    loaded(monkeypatch, later)
    monkeypatch.setenv(threads.VARIABLE, str(later))
    resumed = distill(student, small_teacher, config=EVERYTHING, checkpoint_dir=tmp_path, expect=heard.append)
    assert resumed.resumed_at == 2
    assert [str(found.threads) for found in heard] == ["2 CPU threads, as the run began"]
    assert_same_weights(resumed.generator, straight.generator)
    assert resumed.history == straight.history


def test_a_checkpoint_of_an_older_version_goes_on_with_all_threads(
    tmp_path: Path, small_teacher: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    distill_until(3, pruned(small_teacher), small_teacher, config=EVERYTHING, checkpoint_dir=tmp_path)
    (checkpoint,) = files_in(tmp_path)
    with safe_open(checkpoint, framework="pt") as file:
        metadata = {name: value for name, value in file.metadata().items() if name != "threads"}
    save_file(load_file(checkpoint), checkpoint, metadata)
    loaded(monkeypatch, 1)
    assert threads_of_steps(small_teacher, checkpoint_dir=tmp_path) == [3] * 4


def test_a_given_number_wins_over_the_load_and_the_checkpoint(
    tmp_path: Path, small_teacher: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded(monkeypatch, 1)
    distill_until(3, pruned(small_teacher), small_teacher, config=EVERYTHING, checkpoint_dir=tmp_path)
    assert threads_of_steps(small_teacher, checkpoint_dir=tmp_path, threads=2) == [2] * 4


def test_a_stated_number_is_not_reconsidered(small_teacher: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(threads.VARIABLE, "3")
    monkeypatch.setattr(training, "choose_threads", lambda most: pytest.fail("looked at the load"))
    assert set(threads_of_steps(small_teacher)) == {3}


def test_a_number_below_one_is_refused(small_teacher: Generator) -> None:
    with pytest.raises(UsageError, match="threads is 0"):
        distill(pruned(small_teacher), small_teacher, config=EVERYTHING, threads=0)
