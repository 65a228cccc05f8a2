"""The photograph teacher: what a run writes, what continues it, and what is refused. Networks are tiny."""

from __future__ import annotations

import json
import zipfile
from argparse import Namespace
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dcp_deploy.checkpoints import load_generator, read_metadata
from dcp_deploy.errors import CorruptFileError, UsageError
from dcp_deploy.training import photo_objectives, photo_training
from dcp_deploy.training.photo_recipe import Recipe
from dcp_deploy.training.photo_subset import subset, write_subset
from dcp_deploy.training.photo_teacher import Trainer, main, open_photographs, run

TINY = Recipe(
    resolution=16, channel_base=64, channel_max=4, z_dim=6, w_dim=8, mapping_layers=1, batch=4, steps=6,
    feature_size=32, augment_images=16, record_every=2, look_every=3, look_samples=10,
    evaluation_samples=12,
)  # fmt: skip


class FewMaps(torch.nn.Module):
    """Stands for EfficientNet-Lite0: four random maps of 4 channels of the same sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        source = torch.Generator().manual_seed(0)
        self.weights = [torch.randn(4, 3, 4, 4, generator=source) for _ in range(4)]

    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        sizes = [images.shape[2] // factor for factor in (1, 2, 4, 8)]
        small = [torch.nn.functional.adaptive_avg_pool2d(images, size) for size in sizes]
        return [
            10 * torch.nn.functional.conv2d(x, weight, stride=4) for x, weight in zip(small, self.weights, strict=True)
        ]


class FewFeatures:
    """Feature extractor: the mean of each quarter of each channel, 12 numbers."""

    name, key, device = "efficientnet-lite0", "few", torch.device("cpu")

    def __call__(self, images: torch.Tensor) -> np.ndarray:  # type: ignore[type-arg]
        return torch.nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1).numpy()


@pytest.fixture(autouse=True)
def small_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo_objectives, "load_efficientnet", lambda device: FewMaps())
    monkeypatch.setattr(photo_training, "load_features", lambda device: FewFeatures())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images of 16 px in each of three folders, with labels."""
    path, rng, labels = tmp_path_factory.mktemp("data") / "data.zip", np.random.default_rng(0), []
    with zipfile.ZipFile(path, "w") as file:
        for label, name in enumerate(("cat", "dog", "ship")):
            for index in range(12):
                stream = BytesIO()
                Image.fromarray(rng.integers(256, size=(16, 16, 3), dtype=np.uint8)).save(stream, "PNG")
                file.writestr(f"{name}/{index:04d}.png", stream.getvalue())
                labels.append([f"{name}/{index:04d}.png", label])
        file.writestr("dataset.json", json.dumps({"labels": labels}))
    return path


def trainer(data: Path, out: Path, recipe: Recipe = TINY, *, labelled: bool = False) -> Trainer:
    out.mkdir(exist_ok=True)
    return Trainer(recipe, out, open_photographs(data, out, None, labelled=labelled, size=recipe.resolution))


def test_a_run_ends_with_a_measured_teacher(data: Path, tmp_path: Path) -> None:
    assert trainer(data, tmp_path).run()
    teacher = load_generator(tmp_path / "photo_teacher.safetensors")
    assert teacher.config == TINY.generator(0)
    assert teacher.mapping.w_avg.abs().sum() > 0
    extra = read_metadata(tmp_path / "photo_teacher.safetensors")["extra"]
    assert extra["recipe"]["objective"] == "projected"
    assert extra["metrics"]["samples"] == 12 and extra["metrics"]["reals"] == 36
    assert extra["data"]["images"] == 36
    history = json.loads((tmp_path / "history.json").read_text())
    assert [entry["step"] for entry in history if "d_loss" in entry] == [2, 4, 6]
    assert [entry["step"] for entry in history if "fid" in entry] == [3, 6]
    for name in ("curves.png", "grid.png", "grids/000003.png"):
        assert (tmp_path / name).stat().st_size > 0, name


@pytest.mark.parametrize("objective", ["projected", "stylegan2", "regression"])
def test_a_stopped_run_continues_to_the_same_state(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str
) -> None:
    monkeypatch.setattr(Trainer, "finish", lambda self: None)
    recipe = replace(TINY, objective=objective, look_every=100)
    straight = trainer(data, tmp_path / "straight", recipe, labelled=True)
    assert straight.run()
    first = trainer(data, tmp_path / "stopped", recipe, labelled=True)
    while not first.run(minutes=0):  # one step at a time
        first = trainer(data, tmp_path / "stopped", recipe, labelled=True)
        first.resume()
    expected, actual = (torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("straight", "stopped"))
    assert flat(actual) == flat(expected)


def flat(value: object) -> object:
    """Return a state with tensors as bytes, so that equality is that of every bit."""
    if isinstance(value, torch.Tensor):
        dense = value.to_dense() if value.is_sparse else value
        return dense.contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {key: flat(part) for key, part in value.items()}
    return [flat(part) for part in value] if isinstance(value, list | tuple) else value


def test_regression_reproduces_the_images_better(data: Path, tmp_path: Path) -> None:
    training = trainer(data, tmp_path, replace(TINY, objective="regression"))
    values = [training.objective.update(step)["l1"] for step in range(40)]
    assert np.mean(values[-5:]) < 0.95 * np.mean(values[:5])


@pytest.mark.parametrize("objective", ["projected", "stylegan2"])
def test_an_adversary_learns_and_points_towards_real_images(data: Path, tmp_path: Path, objective: str) -> None:
    training = trainer(data, tmp_path, replace(TINY, objective=objective, lr=0.05))
    adversary = training.objective.adversary  # type: ignore[attr-defined]
    source = torch.Generator().manual_seed(0)
    found = []
    for step in range(40):
        noise = 0.1 * torch.randn(8, 3, 16, 16, generator=source)
        bright, dark = 0.5 + noise[:4], (noise[4:] - 0.5).requires_grad_()
        loss, values = adversary.step((bright, None), (dark, None), step)
        found.append(values)
    assert found[-1]["d_loss"] < 0.5 * found[0]["d_loss"]
    assert found[-1]["sign"] > 0.9
    (gradient,) = torch.autograd.grad(loss, dark)
    assert gradient.mean() < 0  # brighter images would deceive it


def test_augmentation_rises_while_the_discriminator_is_certain(data: Path, tmp_path: Path) -> None:
    training = trainer(data, tmp_path, replace(TINY, augment_target=-1.5))  # always above the target
    rises = [training.objective.update(step)["augment"] for step in range(6)]
    assert rises[0] == 0.0 and rises[-1] > 0


def test_the_conditional_discriminator_depends_on_the_class(data: Path, tmp_path: Path) -> None:
    training = trainer(data, tmp_path, labelled=True)
    assert training.generator.config.c_dim == 3
    adversary = training.objective.adversary  # type: ignore[attr-defined]
    maps, classes = adversary.maps(torch.full((3, 3, 16, 16), 0.5)), torch.eye(3)
    logits = adversary.network(maps, classes)[0]
    assert logits.shape[1] == 1
    assert len({row.sum().item() for row in logits}) == 3


def test_a_subset_holds_the_classes_with_new_numbers_and_the_same_bytes(data: Path, tmp_path: Path) -> None:
    write_subset(data, ["ship", "cat"], tmp_path / "two.zip")
    with zipfile.ZipFile(tmp_path / "two.zip") as two, zipfile.ZipFile(data) as whole:
        labels = dict(json.loads(two.read("dataset.json"))["labels"])
        assert len(labels) == 24
        assert labels["ship/0003.png"] == 0 and labels["cat/0003.png"] == 1
        assert two.read("ship/0003.png") == whole.read("ship/0003.png")
    written = (tmp_path / "two.zip").read_bytes()
    write_subset(data, ["ship", "cat"], tmp_path / "two.zip")
    assert (tmp_path / "two.zip").read_bytes() == written


@pytest.mark.parametrize(("classes", "words"), [(["cow"], "'cow'"), (["cat", "cat"], "twice")])
def test_unknown_and_repeated_classes_are_refused(data: Path, tmp_path: Path, classes: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        write_subset(data, classes, tmp_path / "none.zip")
    assert not (tmp_path / "none.zip").exists()


def test_a_resumed_run_keeps_its_photographs(data: Path, tmp_path: Path) -> None:
    subset(data, ["cat", "ship"], tmp_path / "s.zip")
    kept = (tmp_path / "s.zip").read_bytes()
    write_subset(data, ["cat"], tmp_path / "cats.zip")
    subset(data, ["cat", "ship"], tmp_path / "s.zip")
    for other, classes in ((data, ["ship", "cat"]), (tmp_path / "cats.zip", ["cat"])):
        with pytest.raises(UsageError, match=f"holds other images than the classes {', '.join(classes)} of"):
            subset(other, classes, tmp_path / "s.zip")
    assert (tmp_path / "s.zip").read_bytes() == kept


@pytest.mark.parametrize("changed", [{"steps": 0}, {"minutes": -1.0}, {"minutes": float("nan")}, {"device": "tpu"}])
def test_values_out_of_range_are_refused_before_anything_is_written(
    data: Path, tmp_path: Path, changed: dict[str, object]
) -> None:
    with pytest.raises(UsageError):
        run(arguments(data, tmp_path / "out", **changed))
    assert not (tmp_path / "out").exists()


def test_the_command_ends_with_the_code_of_the_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--data", str(tmp_path / "none.zip"), "--out", str(tmp_path / "out")])
    assert ended.value.code == 3
    assert "none.zip does not exist" in capsys.readouterr().err


def arguments(data: Path, out: Path, **changed: object) -> Namespace:
    usual: dict[str, object] = {
        "data": data, "out": out, "classes": None, "class_conditional": False, "regression": False,
        "device": "cpu", "resize": "error", "steps": None, "seed": 0, "resume": False, "minutes": None,
    }  # fmt: skip
    return Namespace(**usual | changed)


def test_a_folder_with_a_training_is_continued_only_on_request(data: Path, tmp_path: Path) -> None:
    training = trainer(data, tmp_path)
    training.save()
    kept = (tmp_path / "state.pt").read_bytes()
    with pytest.raises(UsageError, match="holds a training") as caught:
        run(arguments(data, tmp_path))
    assert "--resume" in caught.value.remedy
    assert (tmp_path / "state.pt").read_bytes() == kept


def test_resuming_nothing_another_recipe_or_other_images_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no training to continue"):
        run(arguments(data, tmp_path / "a", resume=True))
    trainer(data, tmp_path / "a").save()
    with pytest.raises(UsageError, match="batch 4"):
        trainer(data, tmp_path / "a", replace(TINY, batch=8)).resume()
    write_subset(data, ["cat", "dog"], tmp_path / "two.zip")
    with pytest.raises(UsageError, match="other images"):
        trainer(tmp_path / "two.zip", tmp_path / "a").resume()
    with pytest.raises(UsageError, match="networks of other shapes"):
        trainer(data, tmp_path / "a", labelled=True).resume()


def test_a_run_continues_for_more_steps_but_not_for_fewer_than_it_made(data: Path, tmp_path: Path) -> None:
    first = trainer(data, tmp_path)
    first.step = 5
    first.save()
    longer = trainer(data, tmp_path, replace(TINY, steps=9))
    longer.resume()
    assert longer.step == 5
    with pytest.raises(UsageError, match="has made 5 steps"):
        trainer(data, tmp_path, replace(TINY, steps=4)).resume()


@pytest.mark.parametrize("content", [b"not a state", b"", b"\x80", b"PK\x03\x04"])
def test_a_damaged_state_is_named(data: Path, tmp_path: Path, content: bytes) -> None:
    training = trainer(data, tmp_path)
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"state\.pt"):
        training.resume()


def test_classes_without_labels_are_refused(tmp_path: Path) -> None:
    stream = BytesIO()
    Image.new("RGB", (16, 16)).save(stream, "PNG")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "one.png").write_bytes(stream.getvalue())
    with pytest.raises(UsageError, match="no labels"):
        open_photographs(tmp_path / "plain", tmp_path, None, labelled=True, size=16)
