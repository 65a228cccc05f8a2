"""Training in 16 bits: nearly float32's gradients, no NaN, and fp16's loss scale in the checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from dcp_deploy.compression import distill
from dcp_deploy.compression.distillation.state import TrainingState
from dcp_deploy.compression.distillation.task import FIRST_SCALE
from dcp_deploy.errors import UsageError
from dcp_deploy.generators import Discriminator, DiscriminatorConfig, Generator
from dcp_deploy.generators.ops import modulated_conv2d

from ..conftest import EVERYTHING, assert_same_weights, distill_until, gradient_of, make_stylegan3, pruned

# Rounding of 8 and 11 bits in each of a dozen layers, forward and backward; measured here: 0.9999 and 1.0000.
NEAR = {"bf16": 0.999, "fp16": 0.9999}
ONE_STEP = replace(EVERYTHING, steps=1, gan_start=0, path_length=0, perceptual=3.0, checkpoint_every=1)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("kind", ["stylegan2", "stylegan3"])
def test_gradients_are_near_those_of_float32(
    tmp_path: Path, small_teacher: Generator, precision: str, kind: str
) -> None:
    teacher = small_teacher if kind == "stylegan2" else make_stylegan3()
    student = pruned(teacher)
    for name in ("fp32", precision):
        config = replace(ONE_STEP, precision=name)  # type: ignore[arg-type]
        distill(student, teacher, config=config, perceptual=lambda x: [x], checkpoint_dir=tmp_path / name)
    for network in ("student", "discriminator"):
        exact, ours = (gradient_of(network, tmp_path / name) for name in ("fp32", precision))
        # fp16's gradients are multiplied by its scale, and divided by it again before Adam, so lengths agree too.
        assert F.cosine_similarity(ours, exact, dim=0) > NEAR[precision], network
        assert ours.norm().item() == pytest.approx(exact.norm().item(), rel=0.05)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_training_in_16_bits_approaches_the_teacher_and_resumes_bit_for_bit(
    tmp_path: Path, small_teacher: Generator, precision: str
) -> None:
    student = pruned(small_teacher)
    config = replace(EVERYTHING, steps=8, lr=0.01, ema_half_life=8, gan=0.1, checkpoint_every=3, precision=precision)  # type: ignore[arg-type]
    distill_until(5, student, small_teacher, config=config, checkpoint_dir=tmp_path)
    resumed = distill(student, small_teacher, config=config, checkpoint_dir=tmp_path)
    straight = distill(student, small_teacher, config=config)
    assert resumed.resumed_at == 3
    assert_same_weights(resumed.generator, straight.generator)
    assert straight.history[-1]["l1_to_teacher"] < straight.history[0]["l1_to_teacher"]


def test_an_fp16_gradient_out_of_range_skips_its_update_and_halves_the_scale(
    small_teacher: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[TrainingState] = []
    update = TrainingState.update_ema

    def watch(state: TrainingState, decay: float) -> None:
        update(state, decay)
        kept.append(state)

    monkeypatch.setattr(TrainingState, "update_ema", watch)
    student = pruned(small_teacher)
    config = replace(ONE_STEP, gan=0, relation=0, perceptual=0, l1=1e7, precision="fp16")
    distill(student, small_teacher, config=config)
    assert kept[0].student_scaler.get_scale() == FIRST_SCALE / 2
    assert_same_weights(kept[0].student, student)


def test_modulated_inputs_that_overflow_fp16_are_scaled_first() -> None:
    random = torch.Generator().manual_seed(0)
    x, styles = torch.randn(2, 64, 8, 8, generator=random).abs(), 30 * torch.rand(2, 64, generator=random)
    weight = 40 * torch.rand(8, 64, 3, 3, generator=random)
    exact = modulated_conv2d(x, weight, styles)
    assert not F.conv2d((x * styles[:, :, None, None]).half(), weight.half(), padding=1).isfinite().all()
    ours = modulated_conv2d(x.half(), weight, styles)
    assert ours.dtype == torch.float16
    torch.testing.assert_close(ours.float(), exact, rtol=5e-3, atol=5e-3 * exact.abs().max().item())  # 11 bits


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("up", [1, 2])
def test_a_16_bit_convolution_computes_the_same_function(demodulate: bool, up: int) -> None:
    random = torch.Generator().manual_seed(0)
    x, styles = torch.randn(2, 6, 4, 4, generator=random), torch.randn(2, 6, generator=random)
    weight = torch.randn(5, 6, 3, 3, generator=random)
    exact = modulated_conv2d(x, weight, styles, demodulate=demodulate, up=up)
    ours = modulated_conv2d(x.bfloat16(), weight, styles, demodulate=demodulate, up=up)
    assert ours.dtype == (torch.bfloat16 if demodulate else torch.float32)
    assert (ours - exact).norm() < 0.01 * exact.norm()  # 8 bits


def test_a_discriminator_in_16_bits_gives_nearly_the_same_logits() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        discriminator = Discriminator(DiscriminatorConfig(16, (8, 8, 8)))
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    exact, ours = discriminator(images), discriminator(images, dtype=torch.bfloat16)
    assert ours.dtype == torch.float32
    assert (ours - exact).norm() < 0.03 * exact.norm()  # 8 bits through seven layers


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UsageError, match=r"precision cannot be 'fp8'\n.*'fp32', 'bf16' or 'fp16'"):
        replace(EVERYTHING, precision="fp8")  # type: ignore[arg-type]
