"""A batch in parts, one after the other or over processes: the gradients of the whole batch, the same data, the same
run.

After one step Adam's first moment is the gradient itself (its beta is 0), so a checkpoint holds what is compared.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from dcp_deploy.compression import DistillConfig, DistillResult, distill
from dcp_deploy.compression.distillation.stopping import TrainingInterruptedError
from dcp_deploy.compression.distillation.team import join_team
from dcp_deploy.errors import DcpDeployError, MissingCapabilityError, UsageError
from dcp_deploy.generators import Discriminator, DiscriminatorConfig, Generator

from ..conftest import EVERYTHING, assert_same_weights, files_in, pruned

# One step has every update: R1, and path length in an update of its own, whose gradient is the student's last. With
# hardly any learning rate the weights that it sees do not depend on the rounding of the update before.
WHOLE = replace(EVERYTHING, steps=1, batch=8, gan_start=0, lr=1e-12, mirror=True, checkpoint_every=1)
WITHOUT_PATH = replace(WHOLE, path_length=0)
IMAGES = list(np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8))


def gradients(folder: Path) -> dict[str, Tensor]:
    """Every network's last gradients, and the running path length, of the one checkpoint there."""
    (checkpoint,) = files_in(folder)
    named = load_file(checkpoint)
    return {name: value for name, value in named.items() if name.endswith("exp_avg") or name == "path_mean"}


def assert_same_states(ours: Path, theirs: Path) -> None:
    """Networks, averages, optimisers and records to the last bit; safetensors writes its metadata in any order."""
    with safe_open(ours, framework="pt") as a, safe_open(theirs, framework="pt") as b:
        assert a.metadata() == b.metadata() and a.keys() == b.keys()
    one, other = load_file(ours), load_file(theirs)
    assert not [name for name, value in one.items() if not torch.equal(value, other[name])]


def assert_same_to_rounding(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys() and any(name.startswith("discriminator") for name in ours)
    for name, value in ours.items():
        # float32 sums of some thousands of terms in another order, and the cancellation in gradients of gradients.
        distance = (value - theirs[name]).norm() / theirs[name].norm().clamp(min=1e-8)
        assert distance < 2e-5, f"{name}: {distance}"


@pytest.mark.parametrize("config", [WHOLE, WITHOUT_PATH], ids=["path length", "losses"])
@pytest.mark.parametrize("data", [IMAGES, None], ids=["images", "samples"])
def test_parts_of_a_batch_have_the_gradients_of_the_whole(
    tmp_path: Path, small_teacher: Generator, config: DistillConfig, data: list[NDArray[np.uint8]] | None
) -> None:
    student = pruned(small_teacher)
    shown: list[list[dict[str, float]]] = []
    for parts in (1, 2):
        divided = replace(config, accumulate=parts)
        folder = tmp_path / str(parts)
        shown.append(distill(student, small_teacher, config=divided, data=data, checkpoint_dir=folder).history)
    assert_same_to_rounding(gradients(tmp_path / "2"), gradients(tmp_path / "1"))
    assert shown[0][-1] == pytest.approx(shown[1][-1], rel=1e-5)  # every loss, in float32


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch": 6, "accumulate": 4}, "cannot be split evenly"),
        ({"batch": 8, "accumulate": 4}, "the relation loss needs groups of 4 images"),
        ({"batch": 8, "accumulate": 4, "relation_group": 2}, "the discriminator needs groups of 4 images"),
    ],
)
def test_parts_that_would_have_other_gradients_are_refused(
    small_teacher: Generator, changes: dict[str, int], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        distill(pruned(small_teacher), small_teacher, config=replace(EVERYTHING, **changes))  # type: ignore[arg-type]


def test_the_groups_are_those_of_the_discriminator_given(small_teacher: Generator) -> None:
    config = replace(EVERYTHING, steps=1, batch=8, accumulate=2)
    given = Discriminator(replace(DiscriminatorConfig.mirror(small_teacher.config), mbstd_group=8))
    with pytest.raises(UsageError, match="the discriminator needs groups of 8 images"):
        distill(pruned(small_teacher), small_teacher, config=config, discriminator=given)


def test_groups_of_two_can_be_taken_in_fours(small_teacher: Generator) -> None:
    config = replace(EVERYTHING, steps=1, gan=0, batch=8, accumulate=4, relation_group=2)
    assert distill(pruned(small_teacher), small_teacher, config=config).history[-1]["relation"] > 0


# ---- several processes ----


@pytest.mark.slow
def test_two_processes_train_as_one_and_resume_bit_for_bit(tmp_path: Path, small_teacher: Generator) -> None:
    student, config = pruned(small_teacher), replace(WHOLE, steps=3)

    def train(folder: str, *, devices: int, stop: bool = False) -> DistillResult:
        def watch(step: int, total: int, values: dict[str, float]) -> None:
            if step == 1:
                (checkpoint,) = files_in(tmp_path / folder)
                (tmp_path / f"{folder} first").mkdir()
                shutil.copy(checkpoint, tmp_path / f"{folder} first")
                if stop:
                    signal.raise_signal(signal.SIGTERM)

        return distill(
            student, small_teacher, config=config, data=IMAGES, devices=devices, checkpoint_dir=tmp_path / folder,
            progress=watch,
        )  # fmt: skip

    alone = train("alone", devices=1)
    with pytest.raises(TrainingInterruptedError, match="stopped by SIGTERM after step 2 of 3"):
        train("stopped", devices=2, stop=True)
    assert not multiprocessing.active_children() and not torch.distributed.is_initialized()
    assert_same_to_rounding(gradients(tmp_path / "stopped first"), gradients(tmp_path / "alone first"))

    resumed, straight = train("stopped", devices=2), train("straight", devices=2)
    assert resumed.resumed_at == 2
    (ours,), (theirs,) = (files_in(tmp_path / folder) for folder in ("stopped", "straight"))  # written by one of them
    assert_same_states(ours, theirs)
    assert_same_weights(resumed.generator, straight.generator)
    assert straight.history[-1] == pytest.approx(alone.history[-1], rel=1e-4)  # losses of every step, in float32


def test_a_process_that_dies_ends_the_training_with_its_number(tmp_path: Path, small_teacher: Generator) -> None:
    def kill(step: int, total: int, values: dict[str, float]) -> None:
        for child in multiprocessing.active_children():
            child.kill()

    config = replace(WITHOUT_PATH, gan=0, steps=1000)
    with pytest.raises(DcpDeployError, match=r"the process of device 1 ended \(exit code -9\)"):
        distill(pruned(small_teacher), small_teacher, config=config, devices=2, progress=kill)
    assert not torch.distributed.is_initialized()


def test_what_cannot_be_sent_to_other_processes_is_refused(small_teacher: Generator) -> None:
    with pytest.raises(UsageError, match="cannot be sent to other processes"):
        distill(pruned(small_teacher), small_teacher, config=WHOLE, data=lambda indices: IMAGES[indices[0]], devices=2)


def test_what_several_devices_need_is_told_when_it_is_missing(
    small_teacher: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        pytest.raises(MissingCapabilityError, match=r"cannot use 1000 GPUs: this machine has \d+"),
        join_team(1000, torch.device("cuda"), print),
    ):
        pytest.fail("joined")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingCapabilityError, match=r"needs Lightning Fabric\npip install 'dcp-deploy\[train\]'"):
        distill(pruned(small_teacher), small_teacher, config=WHOLE, devices=2)
