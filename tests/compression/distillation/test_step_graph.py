"""Steps as one CUDA graph: the same training as step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dcp_deploy.compression import DistillConfig, distill
from dcp_deploy.compression.distillation import training as module
from dcp_deploy.compression.distillation.batch import Batch
from dcp_deploy.generators import Generator

from ..conftest import distill_until, pruned

CONFIG = DistillConfig(
    steps=12, batch=4, perceptual=0, gan=0, path_length=0, noise="const", lr=0.01, log_every=3, ema_half_life=20
)


def test_a_batch_mixes_codes_from_the_crossover_on(teacher: Generator) -> None:
    z, mixed = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    first, second = teacher.mapping(z), teacher.mapping(mixed)
    ws = Batch(z, mixed, None, torch.tensor(2), torch.zeros(3, 1, 8)).ws(teacher)
    assert torch.equal(ws[:, :2], first[:, :2]) and torch.equal(ws[:, 2:], second[:, 2:])
    alone = Batch(z, mixed, None, torch.tensor(teacher.config.num_ws), torch.zeros(3, 1, 8)).ws(teacher)
    assert torch.equal(alone, first)


@pytest.mark.gpu
@pytest.mark.parametrize("classes", [0, 3])
def test_a_graph_trains_as_single_steps_do(
    new_generator: Callable[..., Generator], classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = new_generator(c_dim=classes).cuda()
    student = pruned(teacher)
    graphs = module.StepGraph
    made = []
    monkeypatch.setattr(module, "StepGraph", lambda: made.append(graphs()) or made[-1])
    captured = distill(student, teacher, config=CONFIG)
    assert len(made) == 1 and made[0]._graph is not None
    monkeypatch.setattr(module, "can_be_captured", lambda setup: False)
    plain = distill(student, teacher, config=CONFIG)
    # The same kernels in the same order, except that a GPU may sum in another order: float32, twelve steps.
    for ours, theirs in zip(captured.history, plain.history, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)


@pytest.mark.gpu
def test_a_graph_resumes_from_a_checkpoint(teacher: Generator, tmp_path: Path) -> None:
    teacher, config = teacher.cuda(), replace(CONFIG, checkpoint_every=4)
    student = pruned(teacher)

    distill_until(6, student, teacher, config=config, checkpoint_dir=tmp_path)
    resumed = distill(student, teacher, config=config, checkpoint_dir=tmp_path)
    assert resumed.resumed_at == 4
    straight = distill(student, teacher, config=config)
    assert resumed.history[-1] == pytest.approx(straight.history[-1], rel=1e-3)  # as above


@pytest.mark.gpu
@pytest.mark.parametrize("changes", [{"gan": 1.0}, {"noise": "random"}, {"path_length": 2.0}])
def test_steps_that_differ_are_taken_one_by_one(
    teacher: Generator, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "StepGraph", lambda: pytest.fail("captured"))
    teacher = teacher.cuda()
    history = distill(
        pruned(teacher), teacher, config=replace(CONFIG, steps=6, **changes), perceptual=lambda x: [x]
    ).history
    assert history[-1]["l1_to_teacher"] < history[0]["l1_to_teacher"]
