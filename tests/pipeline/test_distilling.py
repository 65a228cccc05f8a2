"""How settings reach the distillation, by the library and by the verb."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dcp_deploy.checkpoints import load_generator, save_generator
from dcp_deploy.cli.app import app
from dcp_deploy.cli.output import Output
from dcp_deploy.compression import plan, prune, score
from dcp_deploy.compression.distillation import recipe
from dcp_deploy.compression.distillation.task import Task
from dcp_deploy.config import BuildConfig, read_toml
from dcp_deploy.datasets.images import open_images
from dcp_deploy.errors import InputError, UsageError
from dcp_deploy.generators import Generator, GeneratorConfig
from dcp_deploy.metrics import published
from dcp_deploy.metrics.photographs import evaluate_against, real_features
from dcp_deploy.pipeline import distilling
from dcp_deploy.pipeline.builder import build
from dcp_deploy.pipeline.distilling import distilling_settings, open_mask, recipe_of
from dcp_deploy.pipeline.plan import plan_build
from dcp_deploy.progress import Reporter, Within
from dcp_deploy.schemas import checked

from .conftest import grey_mask

Distil = Callable[..., tuple[int, str, str]]


@pytest.fixture
def distil(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Distil:
    """Run the verb on a small teacher and student in an empty folder; return exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        teacher = Generator(GeneratorConfig(8, (10, 9, 8, 7), z_dim=8, w_dim=8, mapping_layers=2)).eval()
    save_generator(teacher, "teacher.safetensors")
    student = prune(teacher, plan(teacher, score(teacher, method="random"), ratio=0.4, align=1), refine="none")
    save_generator(student, "pruned.safetensors")

    def run(*words: object) -> tuple[int, str, str]:
        arguments = ["distill", "pruned.safetensors", "--teacher", "teacher.safetensors", *map(str, words)]
        monkeypatch.setattr(sys, "argv", ["dcp-deploy", *arguments])
        with pytest.raises(SystemExit) as end:
            app(arguments, prog_name="dcp-deploy")
        out, err = capfd.readouterr()
        return int(end.value.code or 0), out, err

    return run


def test_the_settings_reach_the_training(distil: Distil, tmp_path: Path) -> None:
    mask = grey_mask(tmp_path / "mask.onnx")
    words = ("-o", "s.safetensors", "--effort", "standard", "--steps", 4, "--keep", "best", "--json")
    more = ("--accumulate", 2, "--train-precision", "bf16", "--tensorboard", "logs", "--mask", mask)
    code, out, err = distil(*words, *more, "--mask-background", "0,2")
    assert code == 0
    history = json.loads(out)["history"]
    assert {"gan", "l1", "relation", "discriminator", "r1"} <= history[-1].keys()
    assert re.search(r"distill: 4 steps, about .+ each, by [2-4] steps timed here just now", err)  # fewer where slow
    assert "the perceptual loss is off. --lpips" in err
    best = min(history, key=lambda entry: entry["l1_to_teacher"])
    assert f"kept the average after {best['step']} steps, l1_to_teacher {best['l1_to_teacher']:.4g}" in err
    assert len(list(Path("logs").iterdir())) == 1
    assert load_generator("s.safetensors").widths == load_generator("pruned.safetensors").widths
    written = read_toml("s.safetensors.toml")
    assert (written["keep"], written["accumulate"], written["mask_background"]) == ("best", 2, "0,2")


def test_a_discriminator_of_other_content_changes_the_stage_s_key(tmp_path: Path) -> None:
    file = tmp_path / "d.pt"
    file.write_bytes(b"one")
    config = BuildConfig(effort="standard", discriminator=file)
    before = distilling_settings(config, None)
    file.write_bytes(b"other")
    assert distilling_settings(config, None) != before


def test_a_teacher_that_generates_infinity_ends_with_exit_code_1(distil: Distil) -> None:
    teacher = load_generator("teacher.safetensors")
    with torch.no_grad():
        teacher.synthesis.get_parameter("b8.torgb.weight").fill_(3e38)  # finite in float32, but its products are not
    save_generator(teacher, "teacher.safetensors")
    code, _, err = distil("-o", "s.safetensors", "--steps", 4)
    assert code == 1
    assert "the l1 loss became NaN or infinite at step 1; no checkpoint yet" in err
    assert not Path("s.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--mask", "missing.onnx"), 3, "mask model missing.onnx not found"),
        (("--lpips", "missing.pth"), 3, "cannot read missing.pth"),
        (("--keep", "second"), 2, "--keep second"),
        (("--train-precision", "fp8"), 2, "--train-precision fp8"),
        (("--mask-background", "hair"), 2, "--mask-background hair"),
        (("--accumulate", 3), 2, "cannot be split evenly"),
        (("--devices", 0), 2, "--devices 0"),
        (("--discriminator", "missing.pt", "--effort", "standard"), 3, "missing.pt"),
    ],
)
def test_settings_that_cannot_work_are_refused(distil: Distil, words: tuple[Any, ...], code: int, message: str) -> None:
    ended, _, err = distil("-o", "s.safetensors", "--steps", 1, *words)
    assert ended == code and message in err


def test_settings_that_change_the_student_change_the_stage_s_key(tmp_path: Path) -> None:
    assert distilling_settings(BuildConfig(tensorboard=tmp_path), None) == {}
    mask = grey_mask(tmp_path / "mask.onnx")
    one, other = (distilling_settings(BuildConfig(), open_mask(mask, background, "unit")) for background in ("0", "1"))
    assert one.keys() == {"mask"} and one != other
    assert distilling_settings(BuildConfig(keep="best", devices=2), None) == {"keep": "best", "devices": 2}
    settings = BuildConfig(effort="paper", accumulate=4, train_precision="bf16", seed=5)
    recipe = recipe_of(settings, demo_recipe=False)
    assert (recipe.accumulate, recipe.precision, recipe.seed, recipe.steps) == (4, "bf16", 5, 450_000)


def test_the_demo_s_standard_effort_needs_no_gpu() -> None:
    """A discriminator and relations cost most of a step, too much for two cores."""
    settings = BuildConfig(effort="standard", steps=7)
    demo, other = (recipe_of(settings, demo_recipe=demo) for demo in (True, False))
    assert (demo.gan, demo.relation, demo.path_length) == (0, 0, 0) and demo.l1 and demo.perceptual
    assert other.gan and other.relation
    assert demo.steps == other.steps == 7
    paper = BuildConfig(effort="paper")
    assert all(recipe_of(paper, demo_recipe=demo) == recipe.RECIPES["paper"] for demo in (True, False))


def test_the_demo_recipe_applies_only_to_the_demo_as_it_ships(faces: Path) -> None:
    assert BuildConfig().demo_recipe
    for given in ({"data": faces}, {"teacher": Path("mine.pkl")}, {"dataset": "ffhq"}):
        assert not BuildConfig.parse(given).demo_recipe


def test_a_plan_uses_the_demo_recipe_only_with_the_demo_s_teacher(tmp_path: Path) -> None:
    save_generator(
        Generator(GeneratorConfig(8, (10, 9, 8, 7), z_dim=6, w_dim=6, mapping_layers=2)), tmp_path / "t.safetensors"
    )
    plans = [plan_build(BuildConfig(effort="standard", teacher=path)) for path in (None, tmp_path / "t.safetensors")]
    assert [plan.facts["effort"]["distill_gan"] for plan in plans] == [0, 1]


def test_the_student_has_momentum_and_muon_only_without_a_discriminator() -> None:
    recipes = [recipe_of(BuildConfig(effort=effort), demo_recipe=True) for effort in ("quick", "paper")]
    assert [(one.beta1, one.optimizer) for one in recipes] == [(0.9, "muon"), (0.0, "adam")]
    with torch.random.fork_rng(devices=[]):
        teacher = Generator(GeneratorConfig(8, (4, 4, 4, 4), z_dim=6, w_dim=6, mapping_layers=1))
    state = Task(teacher, teacher, recipe.DistillConfig(beta1=0.9)).state(torch.device("cpu"))
    momentum = {name: optimizer.param_groups[0]["betas"][0] for name, optimizer in state.optimizers().items()}
    assert momentum == {"student_optimizer": 0.9, "discriminator_optimizer": 0.0}


# ---- quality against real images, on a schedule ----


class Means:
    """Features instead of Inception's: the mean of each channel in each quarter of the image, 12 numbers."""

    name, key, device = "means", "means 1", torch.device("cpu")
    seen: ClassVar[list[int]] = []

    def __call__(self, images: torch.Tensor) -> np.ndarray:
        self.seen.append(len(images))
        return torch.nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1).numpy()


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Write a folder of 12 images of 8 px."""
    folder = tmp_path / "faces"
    folder.mkdir()
    for index in range(12):
        pixels = np.random.default_rng(index).integers(0, 256, size=(8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    return folder


@pytest.fixture
def scheduled(monkeypatch: pytest.MonkeyPatch, no_inception: None) -> None:
    """Measure after the second and the fourth step by 20 samples; means replace Inception's features."""
    Means.seen.clear()
    monkeypatch.setattr(published, "check_fidelity", lambda: None)
    monkeypatch.setattr(
        "dcp_deploy.teachers.downloads.fetch", lambda wanted, **_: SimpleNamespace(path=Path(wanted.file))
    )
    monkeypatch.setattr(published, "load_inception", lambda path, device: Means())


@pytest.fixture
def no_inception(no_metrics_packages: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Set the same schedule without torch-fidelity and with an empty cache of torch."""
    short = replace(recipe.RECIPES["standard"], batch=2, gan=0.0, relation=0.0, measure_every=2)  # so that it is quick
    monkeypatch.setitem(recipe.RECIPES, "standard", short)
    monkeypatch.setattr(distilling, "MEASURED_PHOTOGRAPHS", 20)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr("dcp_deploy.teachers.downloads.fetch", lambda *_, **__: pytest.fail("fetched"))


SCHEDULE = ("-o", "s.safetensors", "--effort", "standard", "--steps", 4, "--json")


@pytest.mark.usefixtures("scheduled")
def test_quality_against_real_images_is_measured_on_the_schedule(distil: Distil, faces: Path) -> None:
    code, out, err = distil(*SCHEDULE, "--data", faces, "--tensorboard", "logs")
    assert code == 0
    assert "distill: FID during training compares 20 samples with 12 of the real images" in err
    document = json.loads(out)
    assert checked("distill", {name: value for name, value in document.items() if name != "schema"})
    measured = {entry["step"]: entry for entry in document["history"] if "fid" in entry}
    assert list(measured) == [2, 4]
    assert set(distilling.DISTANCES) <= measured[2].keys()
    assert sum(Means.seen) == 12 + 2 * 20  # the real images once

    real = real_features(open_images(faces, resolution=8), Means(), count=12, cache=Path("cache"))
    again = evaluate_against(load_generator("s.safetensors"), real, Means(), samples=20, seed=1000).to_dict()
    for name in distilling.DISTANCES:
        assert measured[4][name] == pytest.approx(again[name], rel=1e-6), name

    board = EventAccumulator("logs").Reload()
    plotted = {event.step: event.value for event in board.Scalars("fid")}
    assert plotted == pytest.approx(
        {step: entry["fid"] for step, entry in measured.items()}, rel=1e-6
    )  # kept in float32


@pytest.mark.usefixtures("scheduled")
def test_classes_are_measured_as_often_as_the_images_have_them(
    faces: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = [index // 11 for index in range(12)]  # 11 images of class 0
    pairs = [[f"{index:02d}.png", number] for index, number in enumerate(classes)]
    (faces / "dataset.json").write_text(json.dumps({"labels": pairs}))
    images = open_images(faces, resolution=8, c_dim=2)
    monkeypatch.setattr(distilling, "MEASURED_PHOTOGRAPHS", 400)
    measure = distilling._measure_against(images, None, "cpu", 0, Output())
    assert measure is not None and "its classes are as frequent as theirs" in capsys.readouterr().err
    seen: list[torch.Tensor] = []
    network = Generator(GeneratorConfig(8, (4,) * 4, z_dim=4, w_dim=4, c_dim=2, mapping_layers=1)).eval()
    network.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    measure(network)
    assert float(torch.cat(seen)[:, 1].sum()) == pytest.approx(400 / 12, abs=20)  # a standard deviation of 5.5


@pytest.mark.usefixtures("scheduled")
def test_the_best_student_has_the_lowest_fid(distil: Distil, faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rising = iter([3.0, 5.0])
    figures = dict.fromkeys(distilling.DISTANCES, 0.5)
    measured = lambda *_, **__: SimpleNamespace(to_dict=lambda: {**figures, "fid": next(rising)})  # noqa: E731
    monkeypatch.setattr("dcp_deploy.metrics.photographs.evaluate_against", measured)
    code, _, err = distil(*SCHEDULE, "--data", faces, "--keep", "best")
    assert code == 0
    assert "kept the average after 2 steps, fid 3" in err


@pytest.mark.usefixtures("no_inception")
def test_without_inception_one_message_says_how_to_get_it(distil: Distil, faces: Path) -> None:
    code, out, err = distil(*SCHEDULE, "--data", faces, "--keep", "best")
    assert code == 0
    assert err.count("is not measured during training: torch-fidelity cannot be used here") == 1
    assert "pip install 'dcp-deploy[metrics]'" in err
    assert "l1_to_teacher" in err  # the best student is chosen by this figure
    assert not any("fid" in entry for entry in json.loads(out)["history"])


def test_a_run_continues_after_inception_is_installed(
    distil: Distil, faces: Path, no_inception: None, request: pytest.FixtureRequest
) -> None:
    assert distil(*SCHEDULE, "--data", faces)[0] == 0
    request.getfixturevalue("scheduled")
    code, out, _ = distil(*SCHEDULE, "--data", faces)
    assert (code, json.loads(out)["resumed_at"]) == (0, 4)


@pytest.mark.usefixtures("no_inception")
def test_given_weights_of_inception_must_work(distil: Distil, faces: Path, tmp_path: Path) -> None:
    code, _, err = distil(*SCHEDULE, "--data", faces, "--inception", "missing.pth")
    assert code == 3 and "cannot read missing.pth" in err
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    code, _, err = distil(*SCHEDULE, "--data", faces, "--inception", "w.pth")
    assert code == 4 and "torch-fidelity cannot be used here" in err
    code, _, err = distil(*SCHEDULE, "--inception", "w.pth")
    assert code == 2 and "--inception: it applies to the images of --data" in err


@pytest.mark.usefixtures("scheduled")
def test_too_few_images_are_used_for_training_but_not_for_measuring(distil: Distil, faces: Path) -> None:
    for path in sorted(faces.iterdir())[9:]:
        path.unlink()
    code, out, err = distil(*SCHEDULE, "--data", faces)
    assert code == 0 and "there are 9, and at least 10 are needed to compare with" in err
    assert not Means.seen and json.loads(out)["history"][-1]["step"] == 4


@pytest.mark.usefixtures("no_inception")
def test_a_recipe_without_a_schedule_does_not_load_inception(distil: Distil, faces: Path) -> None:
    code, _, err = distil("-o", "s.safetensors", "--steps", 1, "--data", faces)
    assert code == 0 and "FID" not in err


def test_inception_s_weights_change_the_key_only_if_the_best_student_is_kept(tmp_path: Path) -> None:
    (tmp_path / "w.pth").touch()
    last, best = (
        distilling_settings(BuildConfig(data=tmp_path, inception=tmp_path / "w.pth", keep=keep), None)
        for keep in ("last", "best")
    )
    assert "inception" not in last and len(best["inception"]) == 64


def test_tasks_inside_a_task_move_its_bar() -> None:
    calls: list[tuple[int, int]] = []
    with Within(Reporter(), lambda done, total: calls.append((done, total))).task("real images") as progress:
        progress(3, 12)
    assert calls == [(3, 12)]


# ---- what a build does with it ----


def test_a_missing_mask_fails_before_any_work(tmp_path: Path) -> None:
    config = BuildConfig(mask=tmp_path / "missing.onnx", out=tmp_path / "run")
    for start in (build, plan_build):
        with pytest.raises(InputError, match=r"missing\.onnx not found"):
            start(config)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="--mask-inputs"):
        BuildConfig.parse({"mask_inputs": "grey"})
