"""Several processes: the gradients of the whole batch, the same data, and a run that stops and resumes."""

from __future__ import annotations

import importlib.util
import multiprocessing
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dcp_deploy.compression import DistillResult, distill
from dcp_deploy.compression.distillation.stopping import TrainingInterruptedError
from dcp_deploy.distributed.joining import join_team
from dcp_deploy.errors import DcpDeployError, MissingCapabilityError, UsageError
from dcp_deploy.generators import Generator

from ..conftest import (
    EVERYTHING,
    assert_same_states,
    assert_same_to_rounding,
    assert_same_weights,
    files_in,
    gradients,
    pruned,
)
from .test_split_batches import IMAGES, WHOLE, WITHOUT_PATH


@pytest.fixture
def forked_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start processes as forks of one that has imported everything: starting each anew takes most of a test's time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dcp_deploy.compression", "lightning_fabric"])
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: context)


@pytest.mark.slow
@pytest.mark.usefixtures("forked_processes")
def test_two_processes_train_as_one_and_resume_bit_for_bit(tmp_path: Path, small_teacher: Generator) -> None:
    config, student = replace(WHOLE, steps=5), pruned(small_teacher)
    losses: dict[str, list[dict[str, float]]] = {}

    def train(folder: str, *, devices: int, stop: bool = False) -> DistillResult:
        def watch(step: int, total: int, values: dict[str, float]) -> None:
            losses.setdefault(folder, []).append(values)
            if step == 1:
                shutil.copytree(tmp_path / folder, tmp_path / f"{folder} first")
                if stop:
                    signal.raise_signal(signal.SIGTERM)

        return distill(
            student, small_teacher, config=config, data=IMAGES, devices=devices, checkpoint_dir=tmp_path / folder,
            on_step=watch,
        )  # fmt: skip

    train("alone", devices=1)
    with pytest.raises(TrainingInterruptedError, match="stopped by SIGTERM after step 2 of 5"):
        train("stopped", devices=2, stop=True)
    assert not multiprocessing.active_children() and not torch.distributed.is_initialized()
    assert_same_to_rounding(gradients(tmp_path / "stopped first"), gradients(tmp_path / "alone first"))

    resumed, straight = train("stopped", devices=2), train("straight", devices=2)
    assert resumed.resumed_at == 2
    (ours,), (theirs,) = (files_in(tmp_path / folder) for folder in ("stopped", "straight"))  # one process writes
    assert_same_states(ours, theirs)
    assert_same_weights(resumed.generator, straight.generator)
    for together, alone in zip(losses["straight"], losses["alone"], strict=True):
        assert together == pytest.approx(alone, rel=1e-4)  # float32


@pytest.mark.slow
@pytest.mark.usefixtures("forked_processes")
def test_two_processes_agree_after_real_updates(tmp_path: Path, small_teacher: Generator) -> None:
    config = replace(EVERYTHING, steps=5, batch=8, gan_start=0, relation=0, path_length=0)
    student = pruned(small_teacher)
    losses: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for devices, values in losses.items():
        distill(
            student, small_teacher, config=config, devices=devices, checkpoint_dir=tmp_path / str(devices),
            on_step=lambda step, total, current, values=values: values.append(current),
        )  # fmt: skip
    for alone, together in zip(losses[1], losses[2], strict=True):
        assert together == pytest.approx(alone, rel=1e-2, abs=1e-3)  # float32 through five steps with an adversary


def test_a_process_that_dies_ends_the_training_with_its_number(tmp_path: Path, small_teacher: Generator) -> None:
    def kill(step: int, total: int, values: dict[str, float]) -> None:
        for child in multiprocessing.active_children():
            child.kill()

    config = replace(WITHOUT_PATH, gan=0, steps=1000)
    with pytest.raises(DcpDeployError, match=r"the process of device 1 ended \(exit code -9\)"):
        distill(pruned(small_teacher), small_teacher, config=config, devices=2, on_step=kill)
    assert not torch.distributed.is_initialized()


def test_data_that_cannot_be_sent_to_other_processes_is_refused(small_teacher: Generator) -> None:
    with pytest.raises(UsageError, match="cannot be sent to other processes"):
        distill(pruned(small_teacher), small_teacher, config=WHOLE, data=lambda indices: IMAGES[indices[0]], devices=2)


def test_missing_gpus_and_a_missing_package_are_named(
    small_teacher: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        pytest.raises(MissingCapabilityError, match=r"cannot use 1000 GPUs: this machine has \d+"),
        join_team(1000, torch.device("cuda"), print),
    ):
        pytest.fail("joined")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        MissingCapabilityError, match=r"needs Lightning Fabric\nInstall it: pip install 'dcp-deploy\[train\]'"
    ):
        distill(pruned(small_teacher), small_teacher, config=WHOLE, devices=2)
