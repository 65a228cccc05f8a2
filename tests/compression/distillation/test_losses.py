from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import rel_entr, softmax
from torch import Tensor

from dcp_deploy.compression.distillation import losses
from dcp_deploy.generators import Generator, GeneratorConfig
from dcp_deploy.generators.latents import stream

from ..conftest import make_generator


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=stream(seed, "noise"))


# ---- adversarial ----


def test_an_undecided_discriminator_costs_log_two_per_term() -> None:
    zero = torch.zeros(3)
    assert losses.generator_gan_loss(zero).item() == pytest.approx(math.log(2))
    assert losses.discriminator_gan_loss(zero, zero).item() == pytest.approx(2 * math.log(2))


@given(st.floats(-20, 20), st.floats(-20, 20))
def test_gan_losses_are_negative_log_probabilities(real: float, fake: float) -> None:
    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    logits = torch.tensor([real], dtype=torch.float64), torch.tensor([fake], dtype=torch.float64)
    expected = -math.log(sigmoid(real)) - math.log(sigmoid(-fake))
    assert losses.discriminator_gan_loss(*logits).item() == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert losses.generator_gan_loss(logits[1]).item() == pytest.approx(-math.log(sigmoid(fake)), rel=1e-6, abs=1e-9)


def test_r1_of_a_linear_discriminator_is_its_squared_slope() -> None:
    slope = noise(3, 4, 4)
    real = noise(5, 3, 4, 4, seed=1).requires_grad_()
    penalty = losses.r1_penalty(real, (real * slope).sum(dim=(1, 2, 3)))
    assert penalty.item() == pytest.approx(slope.square().sum().item(), rel=1e-5)


def test_r1_is_differentiable_in_the_discriminators_weights() -> None:
    slope = noise(3, 4, 4).requires_grad_()
    real = noise(2, 3, 4, 4, seed=1).requires_grad_()
    losses.r1_penalty(real, (real * slope).sum(dim=(1, 2, 3))).backward()
    torch.testing.assert_close(slope.grad, 2 * slope.detach())


def test_path_length_of_a_linear_generator_is_the_norm_of_its_adjoint() -> None:
    slots, w_dim, size = 2, 5, 4
    matrix = noise(3 * size * size, slots * w_dim)
    ws = noise(6, slots, w_dim, seed=1).requires_grad_()
    images = (ws.flatten(1) @ matrix.T).reshape(6, 3, size, size)
    y = noise(6, 3, size, size, seed=2)
    adjoint = (y.flatten(1) @ matrix / size).reshape(6, slots, w_dim)  # divided by sqrt(H W)
    expected = adjoint.square().sum(dim=2).mean(dim=1).sqrt()
    torch.testing.assert_close(losses.path_lengths(images, ws, y), expected)


# ---- the same image as the teacher ----


def test_l1_is_the_mean_absolute_difference() -> None:
    assert losses.l1_loss(torch.tensor([1.0, -3.0]), torch.tensor([0.0, 1.0])).item() == 2.5


def test_perceptual_loss_ignores_the_length_of_features() -> None:
    a, b = [noise(2, 4, 3, 3), noise(2, 6, 2, 2, seed=1)], [noise(2, 4, 3, 3, seed=2), noise(2, 6, 2, 2, seed=3)]
    scaled = [2 * a[0], 0.5 * a[1]]
    torch.testing.assert_close(losses.perceptual_loss(scaled, b), losses.perceptual_loss(a, b))
    assert losses.perceptual_loss(scaled, a).item() == pytest.approx(0, abs=1e-10)


def test_perceptual_loss_of_opposite_features_is_four_per_map() -> None:
    maps = [noise(2, 4, 3, 3), noise(2, 6, 2, 2, seed=1)]
    assert losses.perceptual_loss(maps, [-m for m in maps]).item() == pytest.approx(8, rel=1e-5)


# ---- the same relations between images ----


def relation_by_definition(s: Tensor, s_moved: Tensor, t: Tensor, t_moved: Tensor) -> float:
    def relations(a: Tensor, b: Tensor) -> np.ndarray:
        x, y = a.flatten(1).double().numpy(), b.flatten(1).double().numpy()
        cosines = x @ y.T / np.outer(np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1))
        return softmax(cosines, axis=1)

    return float(rel_entr(relations(t, t_moved), relations(s, s_moved)).sum() / len(t))


def test_relation_loss_follows_the_definition_and_sums_over_layers() -> None:
    layers = [
        [{n: noise(4, c, r, r, seed=10 * r + i) for n, r in (("b8", 8), ("b4", 4))} for i in (0, 1)] for c in (3, 6)
    ]
    (student, student_moved), (teacher, teacher_moved) = layers
    expected = sum(
        relation_by_definition(student[n], student_moved[n], teacher[n], teacher_moved[n]) for n in ("b4", "b8")
    )
    actual = losses.relation_loss(student, student_moved, teacher, teacher_moved)
    assert actual.item() == pytest.approx(expected, rel=1e-4)


def test_relations_are_compared_in_groups_spread_over_the_batch() -> None:
    student, student_moved, teacher, teacher_moved = (noise(8, 3, 4, 4, seed=seed) for seed in range(4))
    groups = [
        relation_by_definition(student[i::4], student_moved[i::4], teacher[i::4], teacher_moved[i::4]) for i in range(4)
    ]
    arguments = [{"b4": x} for x in (student, student_moved, teacher, teacher_moved)]
    assert losses.relation_loss(*arguments, group=2).item() == pytest.approx(sum(groups) / 4, rel=1e-4)
    whole = relation_by_definition(student, student_moved, teacher, teacher_moved)
    for group in (8, 3):  # a group that does not divide the batch is the whole batch
        assert losses.relation_loss(*arguments, group=group).item() == pytest.approx(whole, rel=1e-4)


def test_relation_loss_is_zero_for_the_same_relations_in_other_channels() -> None:
    teacher, moved = {"b4": noise(4, 3, 4, 4)}, {"b4": noise(4, 3, 4, 4, seed=1)}

    def doubled(features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: torch.cat([x, x], dim=1) for name, x in features.items()}

    loss = losses.relation_loss(doubled(teacher), doubled(moved), teacher, moved)
    assert loss.item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize(
    ("resolution", "layers"),
    [(1024, [16, 32, 64, 128]), (256, [16, 32, 64, 128]), (64, [16, 32]), (16, [16]), (8, [8])],
)
def test_mimic_layers_of_stylegan2(resolution: int, layers: list[int]) -> None:
    assert losses.mimic_layers(GeneratorConfig.stylegan2(resolution)) == [f"b{layer}" for layer in layers]


def test_mimic_layers_of_stylegan3() -> None:
    assert losses.mimic_layers(GeneratorConfig.stylegan3(256)) == ["L1", "L2"]


def test_offset_directions_are_the_leading_eigenvectors_of_each_block() -> None:
    teacher = make_generator(resolution=32, widths=(9, 8, 7, 6, 9, 8, 5, 4), w_dim=8)
    directions = losses.offset_directions(teacher)
    assert directions.shape == (2 * 5, 8)  # blocks of 8 and 16 px
    for level, group in enumerate(directions.split(5)):
        convs = [conv for name, conv in teacher.synthesis.convs() if name.startswith(f"b{8 << level}.")]
        columns = torch.cat([F.normalize(conv.affine.weight.detach(), dim=1) for conv in convs]).T
        # Eigenvectors of M M^T are left singular vectors of M.
        left, _, _ = torch.linalg.svd(columns.double(), full_matrices=False)
        cosines = (group.double() * left.T[:5]).sum(dim=1).abs()
        torch.testing.assert_close(cosines, torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-5)


def test_offsets_lie_along_pool_directions_with_the_stated_length(teacher: Generator) -> None:
    directions = losses.offset_directions(teacher)
    offsets = losses.draw_offsets(directions, 4000, stream(0, "offsets"))
    cosines = F.normalize(offsets, dim=1) @ directions.T
    torch.testing.assert_close(cosines.abs().amax(dim=1), torch.ones(4000), rtol=0, atol=1e-5)
    # Standard error of the mean square of 4000 normal numbers: 25 * sqrt(2 / 4000) = 0.56. Four of them.
    assert offsets.square().sum(dim=1).mean().item() == pytest.approx(25, abs=2.3)
