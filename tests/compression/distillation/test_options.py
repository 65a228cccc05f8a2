"""Options beyond StyleKD's recipe: each trains the student, and in parts or after a stop with the same result."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dcp_deploy.compression import DistillConfig, distill
from dcp_deploy.compression.distillation import losses
from dcp_deploy.compression.distillation.adversary import student_adversarial_losses, update_discriminators
from dcp_deploy.compression.distillation.batch import draw_batch, generate_both
from dcp_deploy.compression.distillation.feature_adversary import FeatureDiscriminator
from dcp_deploy.compression.distillation.optimizers import set_rates
from dcp_deploy.compression.distillation.stopping import TrainingInterruptedError
from dcp_deploy.compression.distillation.task import Task
from dcp_deploy.distributed.team import ALONE
from dcp_deploy.errors import UsageError
from dcp_deploy.generators import Discriminator, DiscriminatorConfig, Generator
from dcp_deploy.training.parts import step

from ..conftest import (
    EVERYTHING,
    assert_same_states,
    assert_same_to_rounding,
    assert_same_weights,
    discriminator_of,
    files_in,
    gradient_of,
    gradients,
    pruned,
)

CPU = torch.device("cpu")
PLAIN = replace(EVERYTHING, gan=0, relation=0, path_length=0)
AUGMENT = {"augment_target": 0.6, "augment_images": 64.0}  # p moves by a quarter every fourth step
OPTIONS: dict[str, dict[str, Any]] = {
    "augmentation": AUGMENT,
    "guide": {"guide": 10.0},
    "features": {"feature_gan": 1.0},
    "features alone": {"feature_gan": 1.0, "gan": 0.0},
    "all": {**AUGMENT, "guide": 10.0, "feature_gan": 1.0},
}


def fixed_discriminator(teacher: Generator, seed: int = 7, **changes: Any) -> Discriminator:
    return discriminator_of(teacher, seed, **changes).requires_grad_(False)


def features_for(teacher: Generator) -> Any:
    """Return maps of 8 and 4 px in place of a feature network's; the function can be sent to other processes."""
    return fixed_discriminator(teacher, 3).features


def parts_for(config: DistillConfig, teacher: Generator) -> dict[str, Any]:
    """Return the arguments that these settings need; the discriminator takes every image as real, so that p rises."""
    credulous = fixed_discriminator(teacher, 5)
    credulous.out.bias.fill_(20.0)
    return {
        "perceptual": features_for(teacher),
        "guide": fixed_discriminator(teacher) if config.guide else None,
        "discriminator": credulous if config.gan else None,
    }


@pytest.fixture
def teacher(small_teacher: Generator) -> Generator:
    return small_teacher


# ---- every option ----


@pytest.mark.parametrize("option", OPTIONS)
def test_a_stopped_training_ends_with_the_same_bits(tmp_path: Path, teacher: Generator, option: str) -> None:
    config = replace(EVERYTHING, steps=7, checkpoint_every=7, gan_start=0, **OPTIONS[option])
    student, parts = pruned(teacher), parts_for(config, teacher)
    after = 6 if config.augment_target else 3  # p has moved, and the signs of two more steps are in the state

    def stop(step: int, total: int, values: dict[str, float]) -> None:
        if step == after - 1:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(TrainingInterruptedError, match=f"after step {after} of 7"):
        distill(student, teacher, config=config, checkpoint_dir=tmp_path / "stopped", on_step=stop, **parts)
    resumed = distill(student, teacher, config=config, checkpoint_dir=tmp_path / "stopped", **parts)
    straight = distill(student, teacher, config=config, checkpoint_dir=tmp_path / "straight", **parts)
    assert resumed.resumed_at == after
    (ours,), (theirs,) = (files_in(tmp_path / folder) for folder in ("stopped", "straight"))
    assert_same_states(ours, theirs)
    assert_same_weights(resumed.generator, straight.generator)
    if config.augment_target:
        assert straight.history[-1]["augment"] > 0


@pytest.mark.parametrize("option", ["augmentation", "guide", "features"])
def test_another_setting_of_an_option_is_another_run(tmp_path: Path, teacher: Generator, option: str) -> None:
    config = replace(PLAIN, gan=1.0, steps=1, checkpoint_every=1, **OPTIONS[option])
    (name,) = (name for name in OPTIONS[option] if name != "augment_images")
    student = pruned(teacher)
    for each in (config, replace(config, **{name: 0.5})):
        distill(student, teacher, config=each, checkpoint_dir=tmp_path, **parts_for(each, teacher))
    assert len(files_in(tmp_path)) == 2


@pytest.fixture
def eager_augmentation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start augmentation with probability 0.5, so that one step shows it."""
    state = Task.state

    def changed(self: Task, device: torch.device) -> Any:
        made = state(self, device)
        made.augmentation.p = 0.5
        return made

    monkeypatch.setattr(Task, "state", changed)


@pytest.mark.usefixtures("eager_augmentation")
def test_parts_of_a_batch_have_the_gradients_of_the_whole(tmp_path: Path, teacher: Generator) -> None:
    # The learning rate is so low that weights do not depend on the rounding of the update before.
    config = replace(EVERYTHING, steps=1, batch=8, gan_start=0, lr=1e-12, checkpoint_every=1, path_length=0)
    config = replace(config, **OPTIONS["all"])
    student, losses = pruned(teacher), []
    for parts in (1, 2):
        divided, folder = replace(config, accumulate=parts), tmp_path / str(parts)
        result = distill(student, teacher, config=divided, checkpoint_dir=folder, **parts_for(config, teacher))
        losses.append(result.history[-1])
    found, expected = gradients(tmp_path / "2"), gradients(tmp_path / "1")
    assert_same_to_rounding(found, expected)
    assert any(name.startswith("feature_optimizer") for name in found)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)  # every loss, in float32


# ---- the teacher's discriminator as guide ----


def test_the_guide_alone_brings_the_student_closer(teacher: Generator) -> None:
    config = replace(PLAIN, steps=30, l1=0, guide=10.0, lr=0.01, ema_half_life=20, noise="const")
    guide = fixed_discriminator(teacher)
    before = {name: tensor.clone() for name, tensor in guide.state_dict().items()}
    history = distill(pruned(teacher), teacher, config=config, guide=guide).history
    assert history[-1]["l1_to_teacher"] < 0.8 * history[0]["l1_to_teacher"]
    assert history[-1]["total"] == pytest.approx(10 * history[-1]["guide"], rel=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in guide.state_dict().items())


def test_the_guide_loss_of_the_teachers_own_images_is_zero(teacher: Generator) -> None:
    config = replace(PLAIN, steps=1, guide=10.0, noise="const", mixing=0.0)
    assert distill(teacher, teacher, config=config, guide=fixed_discriminator(teacher)).history[-1]["guide"] == 0.0


def test_the_guide_loss_is_masked(teacher: Generator) -> None:
    config = replace(PLAIN, steps=1, guide=10.0)
    guide = fixed_discriminator(teacher)
    hidden = distill(pruned(teacher), teacher, config=config, guide=guide, mask=lambda x: torch.zeros_like(x[:, :1]))
    assert hidden.history[-1]["guide"] == 0.0


def test_a_guide_that_is_missing_unused_or_of_another_size_is_refused(teacher: Generator) -> None:
    student = pruned(teacher)
    with pytest.raises(UsageError, match=r"the guide has weight 10 but no discriminator.*\n.*read_discrimin"):
        distill(student, teacher, config=replace(PLAIN, guide=10.0))
    with pytest.raises(UsageError, match="its weight is 0"):
        distill(student, teacher, config=PLAIN, guide=fixed_discriminator(teacher))
    larger = Discriminator(DiscriminatorConfig(16, (4, 4, 4)))
    with pytest.raises(UsageError, match="the discriminator is for 16 px"):
        distill(student, teacher, config=replace(PLAIN, guide=10.0), guide=larger)


# ---- the discriminator of features ----


def test_the_feature_loss_sends_gradients_to_the_student_only(teacher: Generator) -> None:
    config = replace(EVERYTHING, gan=0, gan_start=0, feature_gan=1.0, noise="const")
    task = Task(pruned(teacher), teacher, config, perceptual=features_for(teacher))
    setup, state = task.setup(CPU, ALONE), task.state(CPU)
    batch = draw_batch(setup, 0)
    losses = student_adversarial_losses(state, setup, batch, generate_both(state, setup, batch).image)
    assert losses.keys() == {"feature_gan"}
    losses["feature_gan"].backward()  # type: ignore[no-untyped-call]
    gradient = state.student.synthesis.b4.const.grad
    assert gradient is not None and gradient.abs().sum() > 0
    assert state.feature_discriminator is not None
    assert all(parameter.grad is None for parameter in state.feature_discriminator.parameters())


def test_the_feature_discriminator_learns_to_tell_a_fixed_student_from_the_teacher(teacher: Generator) -> None:
    config = replace(EVERYTHING, steps=40, lr=0.02, gan=0, gan_start=0, feature_gan=1.0, relation=0, path_length=0)
    task = Task(pruned(teacher), teacher, config, perceptual=features_for(teacher))
    setup, state = task.setup(CPU, ALONE), task.state(CPU)
    losses = []
    for _ in range(config.steps):
        batch = draw_batch(setup, state.step)
        set_rates(state, setup)
        losses.append(update_discriminators(state, setup, [batch], None)["feature_discriminator"].item())
        state.step += 1
    assert losses[0] == pytest.approx(4.0, rel=0.2)  # two maps, whose logits begin near 0: 1 + 1 each
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_the_random_filters_do_not_train(tmp_path: Path, teacher: Generator) -> None:
    config = replace(PLAIN, steps=2, feature_gan=1.0, checkpoint_every=2, lr=0.01)
    task = Task(pruned(teacher), teacher, config, perceptual=features_for(teacher))
    before = task.state(CPU).feature_discriminator
    assert before is not None
    distill(task.student, teacher, config=config, perceptual=features_for(teacher), checkpoint_dir=tmp_path)
    (checkpoint,) = files_in(tmp_path)
    after = {
        name.removeprefix("feature_discriminator."): tensor
        for name, tensor in load_file(checkpoint).items()
        if name.startswith("feature_discriminator.")
    }
    assert after.keys() == before.state_dict().keys()
    for name, tensor in before.state_dict().items():
        if name.startswith("over_") or name.endswith("original"):
            assert torch.equal(tensor, after[name]) == name.startswith("over_"), name


def test_the_head_of_every_resolution_returns_logits_of_four_pixels() -> None:
    shapes = [(24, 32), (48, 16), (80, 8), (64, 4)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        discriminator = FeatureDiscriminator(shapes)
        maps = [torch.randn(2, channels, side, side) for channels, side in shapes]
    logits = discriminator(maps)
    assert [tuple(x.shape) for x in logits] == [(2, 1, 4, 4)] * 4
    # A coarse map reaches every finer head, a fine one only its own: mixing goes from coarse to fine.
    for changed, reached in ((3, [True] * 4), (0, [True, False, False, False])):
        other = [*maps]
        other[changed] = maps[changed] + 1
        assert [not torch.equal(a, b) for a, b in zip(discriminator(other), logits, strict=True)] == reached, changed


def test_heads_learn_to_tell_maps_apart_within_twenty_steps() -> None:
    """At the learning rate of the photograph teacher. Heads that start at N(0, 1) have a loss of 3.6 then."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        discriminator = FeatureDiscriminator([(24, 16), (40, 8)])
        optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-3, betas=(0.0, 0.99))
        for _ in range(20):
            real, fake = ([torch.randn(8, 24, 16, 16), torch.randn(8, 40, 8, 8)] for _ in range(2))
            fake = [x + 0.3 * torch.randn_like(x).mean(dim=1, keepdim=True) + 0.1 for x in fake]
            discriminator.follow()
            loss = losses.discriminator_hinge_loss(discriminator(real), discriminator(fake))
            step(optimizer, loss)
    assert loss.item() < 1.5  # 4 for heads that know nothing


def test_features_of_rectangular_images_are_judged_too(new_generator: Callable[..., Generator]) -> None:
    teacher = new_generator(resolution=8, widths=(10, 9, 8, 7), base=(4, 2))

    def maps(images: torch.Tensor) -> list[torch.Tensor]:
        return [images, torch.nn.functional.avg_pool2d(images, 2)]

    config = replace(PLAIN, feature_gan=1.0, steps=1)
    assert distill(pruned(teacher), teacher, config=config, perceptual=maps).generator.config.image_size == (8, 4)


def test_no_layer_of_a_head_has_a_spectral_norm_above_one() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        discriminator = FeatureDiscriminator([(8, 16)])
    layers = [layer for layer in discriminator.modules() if isinstance(layer, torch.nn.Conv2d)]
    with torch.no_grad():
        for layer in layers:
            layer.parametrizations["weight"].original.mul_(3)  # type: ignore[index, union-attr]
    for _ in range(30):  # power iterations: the largest singular value to a thousandth
        discriminator.follow()
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, rel=1e-2)


def test_a_guide_with_another_clamp_is_another_run(tmp_path: Path, teacher: Generator) -> None:
    config = replace(PLAIN, guide=10.0, steps=1, checkpoint_every=1)
    for changes in ({}, {}, {"conv_clamp": 1.0}):  # the same weights
        guide = fixed_discriminator(teacher, **changes)
        distill(pruned(teacher), teacher, config=config, guide=guide, checkpoint_dir=tmp_path)
    assert len(files_in(tmp_path)) == 2


def test_a_feature_discriminator_without_features_is_refused(teacher: Generator) -> None:
    with pytest.raises(UsageError, match=r"no network to compute features with\n.*--lpips FILE"):
        distill(pruned(teacher), teacher, config=replace(PLAIN, feature_gan=1.0))


# Rounding of 8 and 11 bits in a dozen layers, forward and backward, which also flips signs in the guide's loss.
@pytest.mark.parametrize(("precision", "near"), [("bf16", 0.97), ("fp16", 0.99)])
def test_all_options_train_in_16_bits(tmp_path: Path, teacher: Generator, precision: str, near: float) -> None:
    config = replace(EVERYTHING, steps=1, gan_start=0, relation=0, path_length=0, checkpoint_every=1, **OPTIONS["all"])
    student = pruned(teacher)
    for each in ("fp32", precision):
        in_bits = replace(config, precision=each)  # type: ignore[arg-type]
        distill(student, teacher, config=in_bits, checkpoint_dir=tmp_path / each, **parts_for(config, teacher))
    for network in ("student", "discriminator", "feature"):
        exact, ours = (gradient_of(network, tmp_path / each) for each in ("fp32", precision))
        assert torch.nn.functional.cosine_similarity(ours, exact, dim=0) > near, network
