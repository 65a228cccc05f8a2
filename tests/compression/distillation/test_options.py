"""Options beyond StyleKD's recipe: each trains the student, in parts and after a stop as at once."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dcp_deploy.compression import DistillConfig, distill
from dcp_deploy.compression.distillation.adversary import student_adversarial_losses, update_discriminators
from dcp_deploy.compression.distillation.batch import draw_batch, generate_both
from dcp_deploy.compression.distillation.feature_adversary import FeatureDiscriminator
from dcp_deploy.compression.distillation.optimizers import set_rates
from dcp_deploy.compression.distillation.stopping import TrainingInterruptedError
from dcp_deploy.compression.distillation.task import Task
from dcp_deploy.compression.distillation.team import ALONE
from dcp_deploy.errors import UsageError
from dcp_deploy.generators import Discriminator, DiscriminatorConfig, Generator

from ..conftest import EVERYTHING, assert_same_weights, discriminator_of, files_in, pruned
from .test_split_batches import assert_same_states, assert_same_to_rounding, gradients

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


def judge_of(teacher: Generator, seed: int = 7, **changes: Any) -> Discriminator:
    return discriminator_of(teacher, seed, **changes).requires_grad_(False)


def features_for(teacher: Generator) -> Any:
    """Stands for a feature network: maps of 8 and 4 px, by what other processes can be sent."""
    return judge_of(teacher, 3).features


def parts_for(config: DistillConfig, teacher: Generator) -> dict[str, Any]:
    """What these settings ask for, and a discriminator that takes everything as real, so that p moves."""
    believer = judge_of(teacher, 5)
    believer.out.bias.fill_(20.0)
    return {
        "perceptual": features_for(teacher),
        "guide": judge_of(teacher) if config.guide else None,
        "discriminator": believer if config.gan else None,
    }


@pytest.fixture
def teacher(small_teacher: Generator) -> Generator:
    return small_teacher


# ---- every option ----


@pytest.mark.parametrize("option", OPTIONS)
def test_a_stopped_training_ends_with_the_same_bits(tmp_path: Path, teacher: Generator, option: str) -> None:
    config = replace(EVERYTHING, steps=7, checkpoint_every=7, gan_start=0, **OPTIONS[option])
    student, parts = pruned(teacher), parts_for(config, teacher)
    after = 6 if config.augment_target else 3  # p has moved, and signs of two steps more are waiting

    def stop(step: int, total: int, values: dict[str, float]) -> None:
        if step == after - 1:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(TrainingInterruptedError, match=f"after step {after} of 7"):
        distill(student, teacher, config=config, checkpoint_dir=tmp_path / "stopped", progress=stop, **parts)
    resumed = distill(student, teacher, config=config, checkpoint_dir=tmp_path / "stopped", **parts)
    straight = distill(student, teacher, config=config, checkpoint_dir=tmp_path / "straight", **parts)
    assert resumed.resumed_at == after
    (ours,), (theirs,) = (files_in(tmp_path / folder) for folder in ("stopped", "straight"))
    assert_same_states(ours, theirs)
    assert_same_weights(resumed.generator, straight.generator)
    if config.augment_target:
        assert straight.history[-1]["augment"] > 0  # it was augmented after the stop


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
    """Augmentation that starts with half of all changes taken, so that one step shows it."""
    state = Task.state

    def changed(self: Task, device: torch.device) -> Any:
        made = state(self, device)
        made.augmentation.p = 0.5
        return made

    monkeypatch.setattr(Task, "state", changed)


@pytest.mark.usefixtures("eager_augmentation")
def test_parts_of_a_batch_have_the_gradients_of_the_whole(tmp_path: Path, teacher: Generator) -> None:
    # With hardly any learning rate, so that what an update sees does not depend on the rounding of the one before.
    config = replace(EVERYTHING, steps=1, batch=8, gan_start=0, lr=1e-12, checkpoint_every=1, path_length=0)
    config = replace(config, **OPTIONS["all"])
    student, shown = pruned(teacher), []
    for parts in (1, 2):
        divided, folder = replace(config, accumulate=parts), tmp_path / str(parts)
        shown.append(
            distill(student, teacher, config=divided, checkpoint_dir=folder, **parts_for(config, teacher)).history[-1]
        )
    found, expected = gradients(tmp_path / "2"), gradients(tmp_path / "1")
    assert_same_to_rounding(found, expected)
    assert any(name.startswith("feature_optimizer") for name in found)
    assert shown[0] == pytest.approx(shown[1], rel=1e-5)  # every loss, in float32


@pytest.mark.slow
def test_two_processes_agree_on_what_they_change(tmp_path: Path, teacher: Generator) -> None:
    config = replace(EVERYTHING, steps=5, batch=8, gan_start=0, relation=0, path_length=0, **OPTIONS["all"])
    shown: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for devices, values in shown.items():
        distill(
            pruned(teacher), teacher, config=config, devices=devices, checkpoint_dir=tmp_path / str(devices),
            progress=lambda s, t, told, values=values: values.append(told), **parts_for(config, teacher),
        )  # fmt: skip
    probabilities = [[values["augment"] for values in shown[devices]] for devices in (1, 2)]
    assert probabilities[0] == probabilities[1]
    assert probabilities[0][-1] > 0
    for alone, together in zip(shown[1], shown[2], strict=True):
        assert together == pytest.approx(alone, rel=1e-2, abs=1e-3)  # float32 through five steps of two adversaries


# ---- the teacher's discriminator as guide ----


def test_the_guide_alone_brings_the_student_nearer(teacher: Generator) -> None:
    config = replace(PLAIN, steps=30, l1=0, guide=10.0, lr=0.01, ema_half_life=20, noise="const")
    guide = judge_of(teacher)
    before = {name: tensor.clone() for name, tensor in guide.state_dict().items()}
    history = distill(pruned(teacher), teacher, config=config, guide=guide).history
    assert history[-1]["l1_to_teacher"] < 0.8 * history[0]["l1_to_teacher"]
    assert history[-1]["total"] == pytest.approx(10 * history[-1]["guide"], rel=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in guide.state_dict().items())  # it does not learn


def test_the_guide_finds_nothing_to_say_of_the_teachers_own_images(teacher: Generator) -> None:
    config = replace(PLAIN, steps=1, guide=10.0, noise="const", mixing=0.0)
    assert distill(teacher, teacher, config=config, guide=judge_of(teacher)).history[-1]["guide"] == 0.0


def test_the_guide_does_not_look_where_the_mask_hides(teacher: Generator) -> None:
    config = replace(PLAIN, steps=1, guide=10.0)
    hidden = distill(
        pruned(teacher), teacher, config=config, guide=judge_of(teacher), mask=lambda x: torch.zeros_like(x[:, :1])
    )
    assert hidden.history[-1]["guide"] == 0.0


def test_a_guide_that_is_missing_unused_or_of_other_images_is_refused(
    teacher: Generator,
) -> None:
    student = pruned(teacher)
    with pytest.raises(UsageError, match=r"the guide has weight 10 but there is no discriminator.*\n.*read_discrimin"):
        distill(student, teacher, config=replace(PLAIN, guide=10.0))
    with pytest.raises(UsageError, match="its weight is 0"):
        distill(student, teacher, config=PLAIN, guide=judge_of(teacher))
    larger = Discriminator(DiscriminatorConfig(16, (4, 4, 4)))
    with pytest.raises(UsageError, match="the discriminator is for 16 px"):
        distill(student, teacher, config=replace(PLAIN, guide=10.0), guide=larger)


# ---- the discriminator of features ----


def test_the_student_hears_of_its_features_and_of_them_alone(teacher: Generator) -> None:
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


def test_a_student_that_stands_still_is_found_out_by_its_features(teacher: Generator) -> None:
    config = replace(EVERYTHING, steps=40, lr=0.02, gan=0, gan_start=0, feature_gan=1.0, relation=0, path_length=0)
    task = Task(pruned(teacher), teacher, config, perceptual=features_for(teacher))
    setup, state = task.setup(CPU, ALONE), task.state(CPU)
    found = []
    for _ in range(config.steps):
        batch = draw_batch(setup, state.step)
        set_rates(state, setup)
        found.append(update_discriminators(state, setup, [batch], None)["feature_discriminator"].item())
        state.step += 1
    assert found[0] == pytest.approx(4.0, rel=0.2)  # two maps, whose logits begin near 0: 1 + 1 each
    assert sum(found[-5:]) < 0.8 * sum(found[:5])


def test_what_is_random_about_the_mixing_stays(tmp_path: Path, teacher: Generator) -> None:
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


def test_a_head_at_every_resolution_answers_on_four_pixels() -> None:
    shapes = [(24, 32), (48, 16), (80, 8), (64, 4)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        discriminator = FeatureDiscriminator(shapes)
        maps = [torch.randn(2, channels, side, side) for channels, side in shapes]
    logits = discriminator(maps)
    assert [tuple(x.shape) for x in logits] == [(2, 1, 4, 4)] * 4
    # A coarse map reaches every finer head, a fine one only its own: mixing goes from coarse to fine.
    for index, (changed, seen) in enumerate(((3, [True] * 4), (0, [True, False, False, False]))):
        other = [*maps]
        other[changed] = maps[changed] + 1
        assert [not torch.equal(a, b) for a, b in zip(discriminator(other), logits, strict=True)] == seen, index


def test_no_layer_of_a_head_stretches_its_input() -> None:
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


def test_a_guide_that_clamps_otherwise_is_another_run(tmp_path: Path, teacher: Generator) -> None:
    config = replace(PLAIN, guide=10.0, steps=1, checkpoint_every=1)
    for guide in (judge_of(teacher), judge_of(teacher), judge_of(teacher, conv_clamp=1.0)):  # the same weights
        distill(pruned(teacher), teacher, config=config, guide=guide, checkpoint_dir=tmp_path)
    assert len(files_in(tmp_path)) == 2


def test_a_discriminator_of_features_without_features_is_refused(teacher: Generator) -> None:
    with pytest.raises(UsageError, match=r"no network to compute features with\n.*--lpips FILE"):
        distill(pruned(teacher), teacher, config=replace(PLAIN, feature_gan=1.0))


# Rounding of 8 and 11 bits in a dozen layers, forth and back, and the guide's signs of differences that it changes.
@pytest.mark.parametrize(("precision", "near"), [("bf16", 0.97), ("fp16", 0.99)])
def test_all_of_them_train_in_16_bits(tmp_path: Path, teacher: Generator, precision: str, near: float) -> None:
    config = replace(EVERYTHING, steps=1, gan_start=0, relation=0, path_length=0, checkpoint_every=1, **OPTIONS["all"])
    student, found = pruned(teacher), []
    for each in ("fp32", precision):
        in_bits = replace(config, precision=each)  # type: ignore[arg-type]
        folder = tmp_path / each
        distill(student, teacher, config=in_bits, checkpoint_dir=folder, **parts_for(config, teacher))
        found.append(gradients(folder))
    for optimizer in ("student", "discriminator", "feature"):
        exact, ours = (
            torch.cat([value.flatten() for name, value in each.items() if name.startswith(f"{optimizer}_optimizer")])
            for each in found
        )
        assert torch.nn.functional.cosine_similarity(ours, exact, dim=0) > near, optimizer
