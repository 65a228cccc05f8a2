"""The experiment's bookkeeping on a tiny teacher with cheap figures; what is measured has tests of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dcp_deploy.benchmarks.experiments import quality
from dcp_deploy.benchmarks.experiments.quality import Cell, Experiment, cells, compute, run
from dcp_deploy.generators import Generator, GeneratorConfig


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """Six steps; its only figure is a sum over the weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = GeneratorConfig(resolution=64, z_dim=8, w_dim=8, mapping_layers=1, widths=(16,) * 10)
        teacher = Generator(config).eval().requires_grad_(False)

    def figures(generator: Generator, samples: int, seed: int) -> dict[str, float]:
        return dict.fromkeys(("fid", "recall", "mode_coverage"), float(generator.synthesis.b4.const.abs().sum()))

    monkeypatch.setattr(quality, "figures", figures)
    monkeypatch.setattr(quality, "SCORE_LATENTS", 5)
    return Experiment(tmp_path, teacher, "cpu", steps=6, samples=500, deadline=float("inf"))


CELL = Cell(0.5, "diversity", "none", 0)


def weights_of(document: dict) -> list[tuple[float, float]]:
    return [(entry["step"], entry["fid"]) for entry in document["curve"]]


def test_whatever_is_done_compares_like_with_like() -> None:
    order = cells()
    assert len(order) == len(set(order)) == 72
    for start in range(0, 72, 12):  # each dozen: every score with every refinement, of one seed and ratio
        dozen = order[start : start + 12]
        assert len({(cell.score, cell.refine) for cell in dozen}) == 12
        assert len({(cell.ratio, cell.seed) for cell in dozen}) == 1
    assert {cell.ratio for cell in order[:36]} == {0.7}


def test_a_cell_has_its_curve_and_its_picture(experiment: Experiment) -> None:
    document = compute(experiment, CELL)
    steps = [entry["step"] for entry in document["curve"]]
    assert steps == [0, 1, 2, 3, 4, 6]  # eighths and a sixteenth of six, rounded
    assert all(entry["fid"] > 0 and entry["l1_to_teacher"] > 0 for entry in document["curve"])
    assert document["widths"] == [8] * 10
    assert (experiment.out / "pictures" / "0.5-diversity-none-0.png").exists()


def test_cells_are_computed_once(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [CELL, Cell(0.5, "random", "svs", 1)]
    assert run(experiment, wanted, jobs=2) == []
    kept = json.loads((experiment.out / "cells" / f"{CELL.name}.json").read_text())
    assert kept["cell"] == {"ratio": 0.5, "score": "diversity", "refine": "none", "seed": 0}
    monkeypatch.setattr(quality, "compute", lambda *_: pytest.fail("computed again"))
    assert run(experiment, wanted, jobs=1) == []
    assert not (experiment.out / "partial" / CELL.name).exists()


def test_other_settings_are_computed_anew(experiment: Experiment) -> None:
    run(experiment, [CELL], jobs=1)
    longer = Experiment(**{**vars(experiment), "steps": 7})
    run(longer, [CELL], jobs=1)
    assert json.loads((experiment.out / "cells" / f"{CELL.name}.json").read_text())["curve"][-1]["step"] == 7


def test_a_cell_that_ran_out_of_time_goes_on_where_it_was(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock: Callable[[], float] = time.monotonic
    limited = Experiment(**{**vars(experiment), "deadline": 1.0})
    ticks = iter([0.0] * 12 + [2.0] * 1000)
    monkeypatch.setattr(quality.time, "monotonic", lambda: next(ticks))
    assert run(limited, [CELL], jobs=1) == [CELL]
    monkeypatch.setattr(quality.time, "monotonic", clock)
    assert len(list((experiment.out / "partial" / CELL.name).glob("*.safetensors"))) == 1
    assert run(experiment, [CELL], jobs=1) == []
    resumed = json.loads((experiment.out / "cells" / f"{CELL.name}.json").read_text())
    assert resumed["curve"][0]["seconds"] == 0.0  # by the stopped clock: this entry came out of the checkpoint
    straight = compute(Experiment(**{**vars(experiment), "out": experiment.out / "other"}), CELL)
    assert weights_of(resumed) == weights_of(straight)


def test_the_rare_values_count_as_one_figure_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    ratios = {"hat=top_hat": 1.5, "beard=full": 0.5}

    class Found:
        fid = precision = recall = density = coverage = mode_coverage = frequency_error = 0.5
        rare = ratios

    monkeypatch.setattr(quality, "evaluate", lambda *_, **__: Found)
    measured = quality.figures(Generator(GeneratorConfig(resolution=8, z_dim=4, w_dim=4, widths=(2,) * 4)), 500, 0)
    assert measured["rare_recall"] == 0.75
    assert measured["rare hat=top_hat"] == 1.5
