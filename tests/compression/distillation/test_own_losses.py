"""Losses by functions of the user's: part of the total, resumable, and checked."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dcp_deploy.compression import DistillConfig, distill
from dcp_deploy.compression.distillation import losses
from dcp_deploy.errors import DcpDeployError, UsageError
from dcp_deploy.generators import Generator

from ..conftest import assert_same_weights, distill_until, files_in, pruned

PLAIN = DistillConfig(
    steps=4, batch=4, gan=0, perceptual=0, relation=0, path_length=0, log_every=1, checkpoint_every=2
)  # fmt: skip


def distance(student: Tensor, teacher: Tensor) -> Tensor:
    """The L1 loss, again."""
    return losses.l1_loss(student, teacher)


def crops(student: Tensor, teacher: Tensor) -> Tensor:
    """Compare a random part of the images."""
    left = int(torch.randint(4, []))
    return (student - teacher)[..., left : left + 4].square().mean()


def bad(student: Tensor, teacher: Tensor) -> Any:
    return BAD["value"](student, teacher)


BAD: dict[str, Any] = {}


def named(function: Any, weight: float = 1.0) -> str:
    return f"{__name__}:{function.__name__}={weight}"


def test_a_loss_of_ones_own_trains_as_the_one_that_it_imitates(small_teacher: Generator) -> None:
    student = pruned(small_teacher)
    ours = distill(student, small_teacher, config=replace(PLAIN, l1=0.0, losses=(named(distance, 3.0),)))
    theirs = distill(student, small_teacher, config=PLAIN)
    assert_same_weights(ours.generator, theirs.generator)
    assert [entry["distance"] for entry in ours.history[1:]] == [entry["l1"] for entry in theirs.history[1:]]
    assert [entry["total"] for entry in ours.history[1:]] == [entry["total"] for entry in theirs.history[1:]]


def test_random_numbers_of_a_loss_are_the_same_after_resuming(tmp_path: Path, small_teacher: Generator) -> None:
    student, config = pruned(small_teacher), replace(PLAIN, losses=(named(crops),))
    straight = distill(student, small_teacher, config=config)
    distill_until(3, student, small_teacher, config=config, checkpoint_dir=tmp_path)
    resumed = distill(student, small_teacher, config=config, checkpoint_dir=tmp_path)
    assert resumed.resumed_at == 2
    assert_same_weights(straight.generator, resumed.generator)


def test_another_source_of_the_loss_is_another_run(
    tmp_path: Path, small_teacher: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, config = pruned(small_teacher), replace(PLAIN, losses=(named(distance),))
    options: dict[str, Any] = {"config": config, "checkpoint_dir": tmp_path}
    distill(student, small_teacher, **options)
    assert distill(student, small_teacher, **options).resumed_at == 4
    monkeypatch.setattr("dcp_deploy.extensions.functions.identity_of_source", lambda *about: {"sha256": "another"})
    assert distill(student, small_teacher, **options).resumed_at == 0
    assert len(files_in(tmp_path)) == 2


@pytest.mark.slow
def test_two_processes_find_the_loss_too(small_teacher: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dcp_deploy.compression", "lightning_fabric"])
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: context)
    monkeypatch.syspath_prepend(Path(__file__).parent / "data")
    student, config = pruned(small_teacher), replace(PLAIN, losses=("mean_square:squares=2",))
    one, two = (distill(student, small_teacher, config=config, devices=devices).history for devices in (1, 2))
    for alone, together in zip(one, two, strict=True):
        assert together == pytest.approx(alone, rel=1e-3)  # float32 through four steps


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (lambda student, teacher: 1.0, "returned a float, not a scalar tensor"),
        (lambda student, teacher: (student - teacher).abs(), r"returned the shape \[4, 3, 8, 8\], not a scalar"),
        (
            lambda student, teacher: (student - teacher).detach().abs().mean(),
            "returned a number that does not depend on the student",
        ),
        (lambda student, teacher: torch.tensor(3), "returned a tensor of torch.int64"),
        (lambda student, teacher: student @ teacher[:, :1, :3], "failed: RuntimeError"),
    ],
    ids=["a number", "not reduced", "without gradients", "whole numbers", "an error"],
)
def test_what_comes_back_is_checked_and_the_function_named(small_teacher: Generator, value: Any, words: str) -> None:
    BAD["value"] = value
    with pytest.raises(UsageError, match=f"the loss {__name__}:bad {words}"):
        distill(pruned(small_teacher), small_teacher, config=replace(PLAIN, losses=(named(bad),)))


def test_a_loss_that_is_not_finite_ends_the_training_with_its_name(small_teacher: Generator) -> None:
    BAD["value"] = lambda student, teacher: (student - teacher).mean() / 0
    with pytest.raises(DcpDeployError, match="the bad loss became NaN or infinite at step 1"):
        distill(pruned(small_teacher), small_teacher, config=replace(PLAIN, losses=(named(bad),)))


def test_a_loss_may_be_the_only_one_and_its_name_must_be_its_own(small_teacher: Generator) -> None:
    DistillConfig(gan=0, l1=0, perceptual=0, relation=0, losses=("ours:mine",))
    with pytest.raises(UsageError, match="the loss ours:mine is given twice"):
        DistillConfig(losses=("ours:mine", "ours:mine=2"))
    with pytest.raises(UsageError, match="'edges' is not a loss"):
        DistillConfig(losses=("edges",))
    with pytest.raises(UsageError, match="has the name of another figure of the history, l1_loss"):
        losses_of_one_name = ("dcp_deploy.compression.distillation.losses:l1_loss", "torch.nn.functional:l1_loss")
        distill(pruned(small_teacher), small_teacher, config=replace(PLAIN, losses=losses_of_one_name))


def fid(student: Tensor, teacher: Tensor) -> Tensor:
    return distance(student, teacher)


def test_a_loss_cannot_take_the_name_of_a_measured_figure(small_teacher: Generator) -> None:
    with pytest.raises(UsageError, match="has the name of another figure of the history, fid"):
        distill(pruned(small_teacher), small_teacher, config=replace(PLAIN, losses=(named(fid),)))


def test_a_recipe_without_such_losses_describes_itself_as_before() -> None:
    assert "losses" not in PLAIN.to_dict()
    (described,) = replace(PLAIN, losses=(named(crops, 2.0),)).to_dict()["losses"]
    assert described["name"] == described["function"] == f"{__name__}:crops" and described["weight"] == 2.0
    assert len(described["sha256"]) == 64
