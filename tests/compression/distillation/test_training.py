from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from dcp_deploy.compression import DistillConfig, DistillResult, distill
from dcp_deploy.compression.distillation.state import TrainingState
from dcp_deploy.compression.distillation.task import Task
from dcp_deploy.datasets.images import open_images
from dcp_deploy.errors import DcpDeployError, UsageError
from dcp_deploy.generators import Discriminator, Generator
from dcp_deploy.metrics.published import Lpips

from ..conftest import (
    EVERYTHING,
    assert_same_weights,
    discriminator_of,
    distill_until,
    files_in,
    make_stylegan3,
    pruned,
)

TINY = {"resolution": 8, "widths": (10, 9, 8, 7)}


@pytest.fixture
def teacher(small_teacher: Generator) -> Generator:
    return small_teacher


# ---- training ----


def test_the_student_comes_closer_to_the_teacher(teacher: Generator) -> None:
    config = DistillConfig(
        steps=40, batch=4, perceptual=0, gan=0, path_length=0, noise="const", ema_half_life=20, lr=0.01
    )
    history = distill(pruned(teacher), teacher, config=config).history
    assert history[-1]["l1_to_teacher"] < 0.7 * history[0]["l1_to_teacher"]


def test_a_stylegan3_student_comes_closer_to_its_teacher(stylegan3: Generator) -> None:
    config = DistillConfig(steps=10, batch=4, perceptual=0, gan=0, path_length=0, ema_half_life=5, lr=0.015)
    history = distill(pruned(stylegan3), stylegan3, config=config).history
    assert history[-1]["l1_to_teacher"] < 0.8 * history[0]["l1_to_teacher"]


def test_a_stylegan3_is_distilled_with_every_loss_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    teacher = make_stylegan3(c_dim=2)
    student, config = pruned(teacher), replace(EVERYTHING, steps=4)

    distill_until(3, student, teacher, config=config, checkpoint_dir=tmp_path)
    resumed = distill(student, teacher, config=config, checkpoint_dir=tmp_path)
    straight = distill(student, teacher, config=config)
    assert resumed.resumed_at == 2
    assert_same_weights(resumed.generator, straight.generator)
    assert {"gan", "l1", "relation", "path_length", "r1"} <= straight.history[-1].keys() | straight.history[1].keys()


def test_a_rectangular_student_is_trained_with_every_loss_on_real_images(
    tmp_path: Path, new_generator: Callable[..., Generator]
) -> None:
    teacher = new_generator(**TINY, base=(4, 2))
    for value in range(4):
        Image.new("RGB", (4, 8), (60 * value, 0, 0)).save(tmp_path / f"{value}.png")
    config = replace(EVERYTHING, steps=3, gan_start=0)
    student = distill(pruned(teacher), teacher, config=config, data=open_images(tmp_path, resolution=(8, 4)))
    assert student.generator.config.base == (4, 2)
    with pytest.raises(UsageError, match=r"discriminator is for 8 px .* the teacher is for 4x8 px"):
        distill(pruned(teacher), teacher, config=config, discriminator=discriminator_of(new_generator(**TINY), seed=0))


def test_an_unpruned_student_starts_at_the_teacher(teacher: Generator) -> None:
    config = replace(EVERYTHING, steps=1, gan=0, path_length=0, noise="const", mixing=0.0)
    history = distill(teacher, teacher, config=config).history
    assert history[0] == {"step": 0, "l1_to_teacher": 0.0}
    assert history[1]["l1"] == 0.0
    # Relations go through float32 sums, which leave rounding even for equal inputs.
    assert history[1]["relation"] == pytest.approx(0, abs=1e-6)


def test_the_history_has_the_mean_of_every_loss(teacher: Generator) -> None:
    losses: list[dict[str, float]] = []
    result = distill(
        pruned(teacher), teacher, config=EVERYTHING, on_step=lambda step, total, values: losses.append(values)
    )
    assert [entry["step"] for entry in result.history] == [0, 2, 4, 6]
    assert set(losses[0]) == {"l1", "relation", "path_length", "total"}  # before gan_start
    assert set(losses[1]) == {"l1", "relation", "gan", "discriminator", "total"}
    assert set(losses[4]) == {"l1", "relation", "path_length", "gan", "discriminator", "total"}
    assert result.history[1]["l1"] == pytest.approx((losses[0]["l1"] + losses[1]["l1"]) / 2)
    assert result.history[1]["gan"] == losses[1]["gan"]


def test_the_average_is_measured_on_a_schedule(teacher: Generator, finished_run: tuple[DistillResult, Path]) -> None:
    def size(average: Generator) -> dict[str, float]:
        return {"size": float(average.synthesis.b4.const.detach().abs().sum())}

    student = pruned(teacher)
    result = distill(student, teacher, config=EVERYTHING, measure=size, measure_at=(0, 3, 6))
    measured = {entry["step"]: entry["size"] for entry in result.history if "size" in entry}
    assert list(measured) == [0, 3, 6]
    assert [entry["step"] for entry in result.history] == [0, 2, 3, 4, 6]
    assert measured[0] == size(student)["size"] and measured[6] == size(result.generator)["size"]
    assert_same_weights(result.generator, finished_run[0].generator)


def test_progress_counts_steps_with_two_numbers_as_everywhere(teacher: Generator) -> None:
    calls: list[tuple[int, int]] = []
    config = DistillConfig(steps=3, batch=4, perceptual=0, gan=0, path_length=0)
    distill(pruned(teacher), teacher, config=config, progress=lambda done, total: calls.append((done, total)))
    assert calls[-3:] == [(1, 3), (2, 3), (3, 3)]


def test_a_config_of_another_type_is_refused(teacher: Generator) -> None:
    with pytest.raises(UsageError, match="'quick', not a DistillConfig"):
        distill(pruned(teacher), teacher, config="quick")  # type: ignore[arg-type]


def test_the_total_is_the_weighted_sum(teacher: Generator) -> None:
    config = replace(EVERYTHING, steps=1, gan_start=0.0, perceptual=2.0)
    values: dict[str, float] = {}
    distill(pruned(teacher), teacher, config=config, perceptual=lambda x: [x], on_step=lambda s, t, v: values.update(v))
    expected = values["gan"] + 3 * values["l1"] + 2 * values["perceptual"] + 30 * values["relation"]
    assert values["total"] == pytest.approx(expected, rel=1e-5)
    assert values["r1"] > 0


class Distance(torch.nn.Module):
    """A network in place of LPIPS's: one number for each pair of images, with one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(3.0), requires_grad=False)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.weight * (a - b).square().mean(dim=(1, 2, 3), keepdim=True)


def test_lpips_is_averaged_over_the_batch_and_moves_to_the_device_of_the_training(teacher: Generator) -> None:
    lpips, values = Lpips(Distance(), torch.device("cpu")), dict[str, float]()
    config, student = replace(EVERYTHING, steps=1, gan=0, l1=1.0, perceptual=2.0, path_length=0), pruned(teacher)
    distill(student, teacher, config=config, perceptual=lpips, on_step=lambda step, total, now: values.update(now))
    assert values["perceptual"] > 0
    assert values["total"] == pytest.approx(values["l1"] + 2 * values["perceptual"] + 30 * values["relation"], rel=1e-5)
    moved = Task(student, teacher, config, perceptual=lpips).on(torch.device("meta")).perceptual
    assert isinstance(moved, Lpips) and moved.device.type == "meta"
    assert moved.network.weight.device.type == "meta" and lpips.network.weight.device.type == "cpu"


def test_training_starts_from_a_given_discriminator(tmp_path: Path, teacher: Generator) -> None:
    discriminator, student = discriminator_of(teacher, 7), pruned(teacher)
    config = replace(EVERYTHING, steps=1, gan_start=0, lr=1e-12, checkpoint_every=1)  # it hardly moves
    before = {name: tensor.clone() for name, tensor in discriminator.state_dict().items()}
    distill(student, teacher, config=config, discriminator=discriminator, checkpoint_dir=tmp_path)
    (checkpoint,) = files_in(tmp_path)
    kept = load_file(checkpoint)
    for name, tensor in before.items():
        torch.testing.assert_close(kept[f"discriminator.{name}"], tensor)
        assert torch.equal(discriminator.state_dict()[name], tensor)
    distill(student, teacher, config=config, discriminator=discriminator_of(teacher, 8), checkpoint_dir=tmp_path)
    assert len(files_in(tmp_path)) == 2  # another one is another run
    bounded = discriminator_of(teacher, 7, conv_clamp=1.0)  # the same weights, other logits
    distill(student, teacher, config=config, discriminator=bounded, checkpoint_dir=tmp_path)
    assert len(files_in(tmp_path)) == 3


def test_a_discriminator_that_does_not_fit_is_refused(teacher: Generator) -> None:
    student = pruned(teacher)
    larger = discriminator_of(teacher, 0, resolution=16, widths=(4, 4, 4))
    with pytest.raises(UsageError, match="for 16 px and 0 classes, the teacher is for 8 px and 0"):
        distill(student, teacher, config=EVERYTHING, discriminator=larger)
    with pytest.raises(UsageError, match="the recipe uses none"):
        distill(student, teacher, config=replace(EVERYTHING, gan=0), discriminator=discriminator_of(teacher, 0))


def test_neither_the_arguments_nor_the_global_random_state_change(
    teacher: Generator, finished_run: tuple[DistillResult, Path]
) -> None:
    student = pruned(teacher)
    before = [{name: tensor.clone() for name, tensor in g.state_dict().items()} for g in (teacher, student)]
    torch.manual_seed(123)
    random_state = torch.get_rng_state()
    result = distill(student, teacher, config=EVERYTHING)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert_same_weights(result.generator, finished_run[0].generator)  # from another global random state
    for generator, tensors in zip((teacher, student), before, strict=True):
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in generator.state_dict().items())
        assert all(parameter.requires_grad and parameter.grad is None for parameter in generator.parameters())


def test_another_seed_gives_another_student(teacher: Generator, finished_run: tuple[DistillResult, Path]) -> None:
    other = distill(pruned(teacher), teacher, config=replace(EVERYTHING, seed=1)).generator
    assert not torch.equal(finished_run[0].generator.synthesis.b4.const, other.synthesis.b4.const)


def test_real_images_are_read_in_order_from_the_start_of_the_gan(teacher: Generator) -> None:
    read: list[int] = []

    def images(indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        read.extend(indices.tolist())
        return np.full((len(indices), 8, 8, 3), 127, np.uint8)

    distill(pruned(teacher), teacher, data=images, config=EVERYTHING)
    assert read == list(range(5 * 4))


def test_truncation_centres_on_the_trained_mapping_network(finished_run: tuple[DistillResult, Path]) -> None:
    result = finished_run[0].generator
    w = result.mapping.w(torch.randn(20_000, 8, generator=torch.Generator().manual_seed(5))).detach()
    # Two means, of 10,000 and 20,000 codes: five standard errors of their difference.
    tolerance = 5 * w.std(dim=0) * (1 / 10_000 + 1 / 20_000) ** 0.5
    assert ((result.mapping.w_avg - w.mean(dim=0)).abs() < tolerance).all()


def image_zip(path: Path, value: int, count: int = 6) -> Path:
    """Write 8 px images with labels of three classes; class k is grey with ``value`` + k."""
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(count):
            png = io.BytesIO()
            Image.new("RGB", (8, 8), (value + index % 3,) * 3).save(png, "PNG")
            archive.writestr(f"00000/img{index:08}.png", png.getvalue())
        labels = [[f"00000/img{index:08}.png", index % 3] for index in range(count)]
        archive.writestr("dataset.json", json.dumps({"labels": labels}))
    return path


def test_the_discriminator_gets_real_images_with_their_labels(
    tmp_path: Path, new_generator: Callable[..., Generator], monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = new_generator(c_dim=3, **TINY)
    data = open_images(image_zip(tmp_path / "images.zip", 100), resolution=8, c_dim=3)
    greys_and_labels: list[tuple[float, torch.Tensor]] = []
    forward = Discriminator.forward

    def watched(self: Discriminator, image: torch.Tensor, c: torch.Tensor | None = None, **how: Any) -> torch.Tensor:
        assert c is not None
        flat = image.flatten(1)
        if (flat == flat[:, :1]).all():  # a real image: no generated image is a single grey
            greys_and_labels.extend(zip(((flat[:, 0] + 1) * 127.5).tolist(), c, strict=True))
        return forward(self, image, c, **how)

    monkeypatch.setattr(Discriminator, "forward", watched)
    result = distill(pruned(teacher), teacher, data=data, config=EVERYTHING)
    assert len(greys_and_labels) == 5 * EVERYTHING.batch
    assert all(torch.equal(c, torch.eye(3)[round(grey) - 100]) for grey, c in greys_and_labels)
    assert result.generator.config.c_dim == 3 and "discriminator" in result.history[-1]


def test_an_unconditional_teacher_ignores_labels(tmp_path: Path, teacher: Generator) -> None:
    data = open_images(image_zip(tmp_path / "images.zip", 100), resolution=8)
    assert data.c_dim == 3
    config = replace(EVERYTHING, steps=1, gan_start=0)
    assert distill(pruned(teacher), teacher, data=data, config=config).history[-1]["discriminator"] > 0


def test_real_images_without_labels_are_refused_for_a_conditional_teacher(
    new_generator: Callable[..., Generator],
) -> None:
    teacher, data = new_generator(c_dim=3, **TINY), [np.zeros((8, 8, 3), np.uint8)]
    with pytest.raises(UsageError, match="conditional on 3 classes"):
        distill(pruned(teacher), teacher, data=data, config=EVERYTHING)
    distill(pruned(teacher), teacher, data=data, config=replace(EVERYTHING, steps=1, gan=0))  # without a discriminator


def test_another_data_set_starts_a_checkpoint_of_its_own(tmp_path: Path, teacher: Generator) -> None:
    student, config = pruned(teacher), replace(EVERYTHING, steps=2)

    def resumed_at(archive: Path) -> int:
        data = open_images(archive, resolution=8, c_dim=0)
        return distill(student, teacher, data=data, config=config, checkpoint_dir=tmp_path / "kept").resumed_at

    first = image_zip(tmp_path / "a.zip", 100)
    assert resumed_at(first) == 0
    assert resumed_at(first.rename(tmp_path / "moved.zip")) == 2
    assert resumed_at(image_zip(tmp_path / "b.zip", 101)) == 0
    assert len(files_in(tmp_path / "kept")) == 2


def test_class_conditional_generators_can_be_distilled(new_generator: Callable[..., Generator]) -> None:
    teacher = new_generator(c_dim=3, **TINY)
    result = distill(pruned(teacher), teacher, config=EVERYTHING)
    assert result.generator.config.c_dim == 3
    assert len(result.history) == 4


# ---- refusals ----


def test_a_perceptual_weight_without_features_is_refused(teacher: Generator) -> None:
    with pytest.raises(UsageError, match="perceptual loss has weight 3"):
        distill(pruned(teacher), teacher, config=DistillConfig(steps=1))


def test_a_student_of_another_family_is_refused(new_generator: Callable[..., Generator]) -> None:
    with pytest.raises(UsageError, match="differ in more than their widths"):
        distill(new_generator(z_dim=9), new_generator(), config=EVERYTHING)


def test_a_nan_loss_stops_and_names_the_last_good_checkpoint(tmp_path: Path, teacher: Generator) -> None:
    config = replace(EVERYTHING, perceptual=1.0, checkpoint_every=1)
    calls = 0

    def features(x: torch.Tensor) -> list[torch.Tensor]:
        nonlocal calls
        calls += 1
        return [x * float("nan")] if calls > 4 else [x]  # two calls a step: the third step breaks

    with pytest.raises(
        DcpDeployError, match=r"perceptual loss became NaN or infinite at step 3; .*distill-\w+"
    ) as error:
        distill(pruned(teacher), teacher, config=config, perceptual=features, checkpoint_dir=tmp_path)
    assert error.value.exit_code == 1
    (checkpoint,) = files_in(tmp_path)
    assert str(checkpoint) in str(error.value)

    calls = -100  # finite from now on
    steps: list[int] = []
    result = distill(
        pruned(teacher), teacher, config=config, perceptual=features, checkpoint_dir=tmp_path,
        on_step=lambda step, total, values: steps.append(step),
    )  # fmt: skip
    assert result.resumed_at == 2
    assert steps == [3, 4, 5, 6]


def test_weights_that_became_nan_never_replace_a_good_checkpoint(
    tmp_path: Path, teacher: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = TrainingState.update_ema

    def update_and_break(state: TrainingState, decay: float) -> None:
        update(state, decay)
        if state.step == 3:  # in the fourth step, after finite losses and before a checkpoint
            with torch.no_grad():
                state.student.get_parameter("synthesis.b8.conv1.weight")[0] = float("nan")

    monkeypatch.setattr(TrainingState, "update_ema", update_and_break)
    with pytest.raises(DcpDeployError, match=r"a weight became NaN or infinite at step 4; .*distill-\w+"):
        distill(pruned(teacher), teacher, config=EVERYTHING, checkpoint_dir=tmp_path)
    monkeypatch.undo()
    assert distill(pruned(teacher), teacher, config=EVERYTHING, checkpoint_dir=tmp_path).resumed_at == 2
