"""The verbs that measure, edit and project, in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file

from dcp_deploy.checkpoints.directions import read_directions
from dcp_deploy.evaluation import quality

from .conftest import Command


@pytest.fixture
def model(models: Path) -> Path:
    """A 16 px generator."""
    return models / "t.safetensors"


def test_directions_are_found_and_edit_a_sample(dcp: Command, model: Path) -> None:
    ended = dcp("directions", model, "-o", "d.safetensors", "--count", 3, "--json")
    facts = ended.json
    assert ended.code == 0 and list(facts["directions"]) == ["pc0", "pc1", "pc2"]
    assert read_directions(Path("d.safetensors"))["pc0"].sigma == pytest.approx(facts["directions"]["pc0"]["sigma"])
    assert dcp("sample", model, "--seeds", "0-1", "-o", "plain.png").code == 0
    edit = ("--direction", "pc0=2", "--direction", "pc2=-1.5", "--directions", "d.safetensors")
    assert dcp("sample", model, "--seeds", "0-1", "-o", "edited.png", *edit).code == 0
    assert Path("plain.png").read_bytes() != Path("edited.png").read_bytes()
    assert dcp("sample", model, "--config", "edited.png.toml", "-o", "again.png").code == 0
    assert Path("again.png").read_bytes() == Path("edited.png").read_bytes()


def test_an_impossible_edit_is_a_usage_error(dcp: Command, model: Path) -> None:
    ended = dcp("sample", model, "--direction", "pc0=2")
    assert ended.code == 2 and "--directions FILE" in ended.err
    assert dcp("directions", model, "-o", "d.safetensors", "--count", 2, "--quiet").code == 0
    ended = dcp("sample", model, "--direction", "smile=2", "--directions", "d.safetensors")
    assert ended.code == 2 and "smile=2" in ended.err and "pc0" in ended.err
    ended = dcp("directions", model, "-o", "d.bin")
    assert ended.code == 2 and "d.safetensors" in ended.err


def test_project_reports_both_models_and_writes_what_it_found(dcp: Command, model: Path) -> None:
    Image.new("RGB", (20, 16), "gray").save("face.png")
    words = ("project", "face.png", "--model", model, "--teacher", model, "--steps", 3, "-o", "found")
    ended = dcp(*words)
    assert ended.code == 2 and "--resize crop" in ended.err
    ended = dcp(*words, "--resize", "crop", "--space", "w+", "--json")
    facts = ended.json
    assert ended.code == 0
    assert facts["models"]["model"] == facts["models"]["teacher"] and facts["models"]["model"]["mse"] > 0
    assert (facts["space"], facts["steps"], facts["loss"]) == ("w+", 3, "mse")
    assert json.loads(Path("found/projection.json").read_text()).items() <= facts.items()
    assert load_file("found/ws.safetensors")["model"].shape == (1, 6, 8)
    assert dcp(*words, "--resize", "crop").code == 0  # into the same folder
    assert dcp("project", "nowhere.png", "--model", model).code == 3


def test_eval_prints_figures_reasons_and_the_table_of_modes(
    dcp: Command, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"factor": "hat", "value": "top_hat", "data": 0.05, "samples": 0.04, "ratio": 0.8}
    seen: list[Any] = []

    def measure(path: Path, against: quality.Against, **settings: Any) -> quality.Evaluation:
        seen.append((path, against, settings["samples"]))
        return quality.Evaluation({"fid": 1.25, "modes": [row]}, {"lpips": "no weights here"})

    monkeypatch.setattr(quality, "evaluate_file", measure)
    ended = dcp("eval", model, "--teacher", model, "--samples", 700, "-o", "m.json")
    assert ended.code == 0 and seen == [(model, quality.Against(teacher=model), 700)]
    lines = [line.split() for line in ended.out.splitlines()]
    assert ["fid", "1.25"] in lines
    assert ["hat", "top_hat", "0.0500", "0.0400", "0.80"] in lines
    assert "not measured: no weights here" in ended.out
    assert json.loads(Path("m.json").read_text())["modes"] == [row]


def test_eval_says_beside_fid_how_it_was_measured(dcp: Command, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[quality.Against] = []

    def measure(path: Path, against: quality.Against, **settings: Any) -> quality.Evaluation:
        seen.append(against)
        figures = {"fid": 1.25, "recipe": "fid50k_full, mirrored", "classes": "data", "kid": 0.5}
        return quality.Evaluation(figures, caveats=["psi 0.7: not 1"])

    monkeypatch.setattr(quality, "evaluate_file", measure)
    words = ("eval", model, "--data", "images", "--mirror-data")
    ended = dcp(*words, "--reals", "all")
    lines = [" ".join(line.split()) for line in ended.out.splitlines()]
    assert ended.code == 0 and lines[:5] == [
        "fid 1.25", "recipe fid50k_full, mirrored", "classes as frequent as in the data", "caveat 1 psi 0.7: not 1",
        "kid 0.5",
    ]  # fmt: skip
    assert dcp(*words, "--reals", "700").code == 0
    assert [(one.reals, one.mirrored) for one in seen] == [(None, True), (700, True)]
    ended = dcp(*words, "--reals", "most")
    assert ended.code == 2 and "--reals 'most'" in ended.err and "all" in ended.err


def test_eval_of_a_collapsed_generator_fails_after_its_figures(
    dcp: Command, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = quality.Evaluation({"fid": 9.5}, collapsed=True)
    monkeypatch.setattr(quality, "evaluate_file", lambda *_, **__: found)
    ended = dcp("eval", model, "-o", "m.json")
    assert ended.code == 5 and "has collapsed" in ended.err
    assert "9.5" in ended.out and json.loads(Path("m.json").read_text())["collapsed"] is True


def test_eval_without_data_needs_a_model_like_the_demo(dcp: Command, model: Path) -> None:
    ended = dcp("eval", model)
    assert ended.code == 2 and "16 px" in ended.err and "--data" in ended.err
