"""The bookkeeping of the experiment, on a tiny teacher with cheap figures; the metrics have their own tests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dcp_deploy.benchmarks.experiments import quality, subjects
from dcp_deploy.benchmarks.experiments.quality import Cell, Experiment, cells, run
from dcp_deploy.compression import DistillConfig
from dcp_deploy.generators import Generator, GeneratorConfig


def cheap_figures(generator: Generator, samples: int, seed: int) -> dict[str, float]:
    """Return a sum of weights."""
    return dict.fromkeys(("fid", "recall"), float(generator.synthesis.b4.const.abs().sum()))


@pytest.fixture(scope="module", autouse=True)
def cheap_settings() -> Iterator[None]:
    """Let scores come from few latents."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "SCORE_LATENTS", 5)
        patch.setattr(quality, "CHANGE_LATENTS", 4)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """An experiment of six steps in which ``CELL`` is done. Do not change it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = GeneratorConfig(resolution=64, z_dim=8, w_dim=8, mapping_layers=1, widths=(16,) * 10)
        teacher = Generator(config).eval().requires_grad_(False)
    out = tmp_path_factory.mktemp("quality")
    subject = replace(subjects.demo("cpu"), teacher=teacher, figures=cheap_figures)
    experiment = Experiment(out, subject, "cpu", steps=6, samples=500, deadline=float("inf"))
    assert run(experiment, [CELL], jobs=1) == []
    return experiment


@pytest.fixture
def experiment(finished: Experiment, tmp_path: Path) -> Experiment:
    """A copy of the finished experiment."""
    shutil.copytree(finished.out, tmp_path / "copy")
    return replace(finished, out=tmp_path / "copy")


CELL, OTHER = Cell(0.5, "diversity", "none", 0), Cell(0.5, "random", "svs", 1)


def document_of(experiment: Experiment) -> dict[str, Any]:
    """Return the file of ``CELL``."""
    return json.loads((experiment.out / "cells" / f"{CELL.name}.json").read_text())


def weights_of(document: dict) -> list[tuple[float, float]]:
    return [(entry["step"], entry["fid"]) for entry in document["curve"]]


def test_the_order_of_cells_makes_unfinished_experiments_fair() -> None:
    order = cells()
    assert len(order) == len(set(order)) == 126
    for start in range(0, 126, 21):  # every score with every refinement, of one seed and ratio
        some = order[start : start + 21]
        assert len({(cell.score, cell.refine) for cell in some}) == 21
        assert len({(cell.ratio, cell.seed) for cell in some}) == 1
    assert {cell.ratio for cell in order[:63]} == {0.7}


def test_variants_are_scores_with_settings_of_their_own(finished: Experiment) -> None:
    found = {name: quality.scores_of(finished, name, 0) for name in ("change", "change-1-sigma", "released")}
    assert found["change-1-sigma"].settings["alpha"] == 1.0 and found["change"].settings["alpha"] == 3.0
    assert found["released"].settings["released"] is True


def test_an_unknown_score_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        quality.main(["--out", str(tmp_path), "--scores", "hybrid", "hybird"])
    assert "unknown scores ['hybird']" in capsys.readouterr().err


def test_numbers_of_the_recipe_can_be_replaced(experiment: Experiment) -> None:
    changes = quality.recipe_changes(["optimizer=adam", "rare=0.5", "mirror=true"], DistillConfig())
    assert changes == {"optimizer": "adam", "rare": 0.5, "mirror": True}
    changed = replace(experiment, changes=changes)
    assert (changed.recipe(3).optimizer, changed.recipe(3).rare, changed.recipe(3).seed) == ("adam", 0.5, 3)
    assert changed.settings() != experiment.settings()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rare", "NAME=VALUE"),
        ("rarer=0.5", "rare,"),
        ("rare=2", "rare cannot be 2"),
        ("steps=4", "NAME=VALUE"),
        ("l1=0 perceptual=0", "nothing to train"),
    ],
)
def test_a_change_that_the_recipe_cannot_have_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        quality.main(["--out", str(tmp_path), "--recipe", *text.split()])
    assert words in capsys.readouterr().err


def test_a_cell_has_its_curve_and_its_picture(finished: Experiment) -> None:
    document = document_of(finished)
    steps = [entry["step"] for entry in document["curve"]]
    assert steps == [0, 1, 2, 3, 4, 6]  # eighths and a sixteenth of six, rounded
    assert all(entry["fid"] > 0 and entry["l1_to_teacher"] > 0 for entry in document["curve"])
    assert document["widths"] == [8] * 10
    assert (finished.out / "pictures" / "0.5-diversity-none-0.png").exists()


def test_a_teacher_without_its_images_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        quality.main(["--out", str(tmp_path), "--teacher", "teacher.safetensors"])
    assert "--teacher and --data belong together" in capsys.readouterr().err


def test_cells_are_computed_once(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    assert document_of(experiment)["cell"] == {"ratio": 0.5, "score": "diversity", "refine": "none", "seed": 0}
    computed: list[Cell] = []

    def compute(experiment: Experiment, cell: Cell) -> dict[str, Any]:
        computed.append(cell)
        return document_of(experiment)

    monkeypatch.setattr(quality, "compute", compute)
    assert run(experiment, [CELL, OTHER], jobs=1) == run(experiment, [CELL, OTHER], jobs=1) == []
    assert computed == [OTHER]
    assert not (experiment.out / "partial" / CELL.name).exists()


def test_cells_of_other_settings_are_computed_again(experiment: Experiment) -> None:
    assert run(replace(experiment, steps=7), [CELL, OTHER], jobs=2) == []  # in parallel
    assert document_of(experiment)["curve"][-1]["step"] == 7


def test_a_cell_that_ran_out_of_time_continues(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = document_of(experiment)
    (experiment.out / "cells" / f"{CELL.name}.json").unlink()
    ticks = iter([0.0] * 7 + [2.0] * 1000)
    with monkeypatch.context() as stopped:
        stopped.setattr(quality.time, "monotonic", lambda: next(ticks))
        assert run(replace(experiment, deadline=1.0), [CELL], jobs=1) == [CELL]
    assert len(list((experiment.out / "partial" / CELL.name).glob("*.safetensors"))) == 1
    assert run(experiment, [CELL], jobs=1) == []
    resumed = document_of(experiment)
    assert resumed["curve"][0]["seconds"] == 0.0  # by the stopped clock, so this entry is from the checkpoint
    assert weights_of(resumed) == weights_of(expected)
