"""What a config says of the distillation, and the verb that does it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from dcp_deploy.checkpoints import load_generator, save_generator
from dcp_deploy.checkpoints.rosinality_discriminator import origins
from dcp_deploy.cli import app
from dcp_deploy.compression import plan, prune, score
from dcp_deploy.config import BuildConfig, read_toml
from dcp_deploy.distilling import distilling_settings, recipe_of
from dcp_deploy.errors import InputError, UsageError
from dcp_deploy.generators import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig

Distil = Callable[..., tuple[int, str, str]]


@pytest.fixture
def distil(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Distil:
    """The verb on a small teacher and student in an empty working directory: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        teacher = Generator(GeneratorConfig(8, (10, 9, 8, 7), z_dim=8, w_dim=8, mapping_layers=2)).eval()
    save_generator(teacher, "teacher.safetensors")
    student = prune(teacher, plan(teacher, score(teacher, method="random"), ratio=0.4))
    save_generator(student, "pruned.safetensors")

    def run(*words: object) -> tuple[int, str, str]:
        arguments = ["distill", "pruned.safetensors", "--teacher", "teacher.safetensors", *map(str, words)]
        monkeypatch.setattr(sys, "argv", ["dcp-deploy", *arguments])
        with pytest.raises(SystemExit) as end:
            app(arguments, prog_name="dcp-deploy")
        out, err = capfd.readouterr()
        return int(end.value.code or 0), out, err

    return run


def grey_mask(path: Path) -> Path:
    """An ONNX file that takes an image for its own mask of three classes."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ("B", 3, "H", "W"))
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ("B", 3, "H", "W"))
    graph = helper.make_graph([helper.make_node("Identity", ["image"], ["out"])], "mask", [image], [out])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_the_settings_reach_the_training(distil: Distil, tmp_path: Path) -> None:
    mask = grey_mask(tmp_path / "mask.onnx")
    words = ("-o", "s.safetensors", "--effort", "standard", "--steps", 4, "--keep", "best", "--json")
    more = ("--accumulate", 2, "--train-precision", "bf16", "--tensorboard", "logs", "--mask", mask)
    code, out, err = distil(*words, *more, "--mask-background", "0,2")
    assert code == 0
    history = json.loads(out)["history"]
    assert {"gan", "l1", "relation", "discriminator", "r1"} <= history[-1].keys()
    assert re.search(r"distill: 4 steps, about .+ each, by [2-4] steps timed here just now", err)  # fewer where slow
    assert "without the perceptual loss; --lpips FILE brings it" in err
    best = min(history, key=lambda entry: entry["l1_to_teacher"])
    assert f"kept the average after {best['step']} steps, l1_to_teacher {best['l1_to_teacher']:.4g}" in err
    assert len(list(Path("logs").iterdir())) == 1
    assert load_generator("s.safetensors").widths == load_generator("pruned.safetensors").widths
    written = read_toml("s.safetensors.toml")
    assert (written["keep"], written["accumulate"], written["mask_background"]) == ("best", 2, "0,2")


def test_options_beyond_the_recipe_reach_the_training(distil: Distil) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = Discriminator(DiscriminatorConfig(8, (6, 7)))
    names = origins(1)
    torch.save({"d": {names[name]: tensor for name, tensor in network.state_dict().items()}}, "teacher.pt")
    words = ("-o", "s.safetensors", "--effort", "standard", "--steps", 2, "--json")
    code, out, _ = distil(*words, "--guide", "teacher.pt", "--augment")
    assert code == 0
    last = json.loads(out)["history"][-1]
    assert last["augment"] == 0.0 and last["guide"] > 0  # p is adapted every fourth step
    assert read_toml("s.safetensors.toml")["augment"] is True


def test_options_beyond_the_recipe_have_their_published_weights_and_decide_the_stage(tmp_path: Path) -> None:
    file = tmp_path / "d.pt"
    file.write_bytes(b"one")
    config = BuildConfig(effort="standard", augment=True, guide=file, feature_gan=True)
    recipe = recipe_of(config)
    assert (recipe.augment_target, recipe.guide, recipe.feature_gan) == (0.6, 10, 1)
    before = distilling_settings(config)
    file.write_bytes(b"other")
    assert distilling_settings(config) != before


def test_a_discriminator_of_features_without_features_is_refused_before_anything_is_built() -> None:
    with pytest.raises(UsageError, match=r"--feature-gan.*--lpips FILE"):
        BuildConfig.parse({"dataset": "ffhq", "feature_gan": True})
    BuildConfig.parse({"dataset": "ffhq", "feature_gan": True, "lpips": Path("vgg16.pth")})


def test_a_teacher_that_draws_infinity_ends_with_exit_code_1(distil: Distil) -> None:
    teacher = load_generator("teacher.safetensors")
    with torch.no_grad():
        teacher.synthesis.get_parameter("b8.torgb.weight").fill_(3e38)  # a float32, but not what it is multiplied to
    save_generator(teacher, "teacher.safetensors")
    code, _, err = distil("-o", "s.safetensors", "--steps", 4)
    assert code == 1
    assert "the l1 loss became NaN or infinite at step 1; no checkpoint yet" in err
    assert not Path("s.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--mask", "missing.onnx"), 3, "there is no mask model missing.onnx"),
        (("--lpips", "missing.pth"), 3, "cannot read missing.pth"),
        (("--keep", "second"), 2, "--keep second"),
        (("--train-precision", "fp8"), 2, "--train-precision fp8"),
        (("--mask-background", "hair"), 2, "--mask-background hair"),
        (("--accumulate", 3), 2, "cannot be split evenly"),
        (("--devices", 0), 2, "--devices 0"),
        (("--augment",), 2, "take a recipe with one (effort standard or paper)"),
        (("--feature-gan",), 2, "--lpips FILE"),
        (("--guide", "missing.pt"), 3, "missing.pt"),
    ],
)
def test_settings_that_cannot_work_are_refused(distil: Distil, words: tuple[Any, ...], code: int, told: str) -> None:
    ended, _, err = distil("-o", "s.safetensors", "--steps", 1, *words)
    assert ended == code and told in err


def test_what_decides_the_student_decides_the_stage(tmp_path: Path) -> None:
    assert distilling_settings(BuildConfig(tensorboard=tmp_path)) == {}
    mask = grey_mask(tmp_path / "mask.onnx")
    one, other = (distilling_settings(BuildConfig(mask=mask, mask_background=which)) for which in ("0", "1"))
    assert one.keys() == {"mask"} and one != other
    assert distilling_settings(BuildConfig(keep="best", devices=2)) == {"keep": "best", "devices": 2}
    recipe = recipe_of(BuildConfig(effort="paper", accumulate=4, train_precision="bf16", seed=5))
    assert (recipe.accumulate, recipe.precision, recipe.seed, recipe.steps) == (4, "bf16", 5, 450_000)


def test_a_build_finds_out_first_that_the_mask_is_missing(tmp_path: Path) -> None:
    from dcp_deploy.pipeline import build

    config = BuildConfig(mask=tmp_path / "missing.onnx", out=tmp_path / "run")
    with pytest.raises(InputError, match="there is no mask model"):
        build(config)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="--mask-inputs"):
        BuildConfig.parse({"mask_inputs": "grey"})
