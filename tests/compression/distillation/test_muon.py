from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dcp_deploy.compression.distillation.muon import Muon, orthogonalised
from dcp_deploy.compression.distillation.optimizers import student_optimizers
from dcp_deploy.compression.distillation.recipe import DistillConfig
from dcp_deploy.generators import Generator


def by_singular_values(matrix: Tensor) -> Tensor:
    """Return what :func:`orthogonalised` returns, computed from the singular value decomposition."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    s = s / s.norm().clamp(min=1e-7)
    for _ in range(5):
        s = 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5
    return u * s @ v


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 1000))
def test_only_the_singular_values_change(rows: int, columns: int, seed: int) -> None:
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    # 1e-9: five products in float64, of numbers around one
    torch.testing.assert_close(orthogonalised(matrix), by_singular_values(matrix), rtol=0, atol=1e-9)


def test_singular_values_are_near_one() -> None:
    u, _, v = torch.linalg.svd(torch.randn(8, 20, generator=torch.Generator().manual_seed(0)), full_matrices=False)
    values = torch.linalg.svdvals(orthogonalised(u * torch.logspace(0, -2, 8) @ v))
    assert values.min() > 0.6
    assert values.max() < 1.2


def test_a_weight_without_gradient_and_a_gradient_of_zeros_leave_the_weight() -> None:
    weights = [nn.Parameter(torch.ones(4, 4)) for _ in range(2)]
    weights[1].grad = torch.zeros(4, 4)
    Muon(weights, 0.1, momentum=0.9).step()
    assert all(bool((weight == 1).all()) for weight in weights)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon since 2.9")
def test_updates_are_those_of_torch_s_muon() -> None:
    source = torch.Generator().manual_seed(0)
    start, gradients = torch.randn(6, 4, 3, 3, generator=source), torch.randn(3, 6, 4, 3, 3, generator=source)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.flatten(1).clone())
    own = Muon([ours], 0.01, momentum=0.9)
    # Its adjustment "match_rms_adamw" is 0.2 sqrt(max(rows, columns)).
    reference = torch.optim.Muon([theirs], lr=0.05, weight_decay=0.0, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    for gradient in gradients:
        ours.grad, theirs.grad = gradient.clone(), gradient.flatten(1).clone()
        own.step()
        reference.step()
    moved, wanted = (ours.detach() - start).flatten(1), theirs.detach() - start.flatten(1)
    assert (moved - wanted).norm() < 0.02 * wanted.norm()  # torch computes in bfloat16: 8 bits


def test_a_step_moves_each_weight_by_the_learning_rate() -> None:
    weight = nn.Parameter(torch.zeros(16, 8, 3, 3))
    weight.grad = torch.randn(16, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    Muon([weight], 0.01, momentum=0.9).step()
    # the mean of squares; singular values between 0.68 and 1.14 instead of 1
    assert 0.0068 < weight.detach().square().mean().sqrt() < 0.0114


def test_a_learning_rate_in_a_tensor_is_read_in_each_step() -> None:
    weight, rate = nn.Parameter(torch.zeros(4, 4)), torch.tensor(0.0)
    optimizer = Muon([weight], rate, momentum=0.0)
    weight.grad = torch.eye(4)
    optimizer.step()
    assert not weight.any()
    rate.fill_(0.1)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), -0.1 * 4**0.5 * by_singular_values(torch.eye(4)))


def test_muon_has_the_convolutions_and_adam_the_rest(teacher: Generator) -> None:
    adam, muon = student_optimizers(teacher, DistillConfig(optimizer="muon", beta1=0.9))
    assert muon is not None
    names = {id(parameter): name for name, parameter in teacher.named_parameters()}
    chosen, rest = (
        {names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]}
        for optimizer in (muon, adam)
    )
    assert chosen | rest == set(names.values()) and not chosen & rest
    assert {name.rpartition(".")[2] for name in chosen} == {"weight"}
    assert all("conv" in name for name in chosen) and any("torgb" in name for name in rest)
    assert student_optimizers(teacher, DistillConfig())[1] is None
