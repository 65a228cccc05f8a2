"""The verbs that measure, edit and project, in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
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


def test_directions_of_another_tool_are_imported_and_edit_a_sample(dcp: Command, model: Path) -> None:
    np.save("age_boundary.npy", np.float32([[3, 0, 0, 4, 0, 0, 0, 0]]))
    words = ("--name", "age", "--layers", "2-4", "-o", "age.safetensors", "--json")
    facts = dcp("directions", "--import", "age_boundary.npy", "--model", model, *words).json
    made = read_directions(Path("age.safetensors"))["age"]
    assert facts["directions"] == {"age": {"layers": [2, 4], "sigma": pytest.approx(made.sigma)}}
    assert "InterFaceGAN" in facts["imported"]
    assert made.vector.tolist() == pytest.approx([0.6, 0, 0, 0.8, 0, 0, 0, 0])
    again = ("--config", "age.safetensors.toml", "-o", "again.safetensors")
    assert dcp("directions", *again).code == 0
    assert Path("again.safetensors").read_bytes() == Path("age.safetensors").read_bytes()
    assert dcp("sample", model, "--seeds", "0", "--direction", "age=2", "--directions", "age.safetensors").code == 0


def test_a_raw_file_of_another_tool_is_named_with_the_command_that_imports_it(dcp: Command, model: Path) -> None:
    np.save("age_boundary.npy", np.ones((1, 8), np.float32))
    for words in (
        ("sample", model, "--direction", "age=2"),
        ("eval", model, "--teacher", model),
    ):
        ended = dcp(*words, "--directions", "age_boundary.npy")
        assert ended.code == 3 and "InterFaceGAN" in ended.err
        assert "dcp-deploy directions MODEL --import age_boundary.npy" in ended.err


def test_contradictory_ways_to_ask_for_directions_are_refused(dcp: Command, model: Path) -> None:
    np.save("age.npy", np.ones((1, 8), np.float32))
    np.save("wide.npy", np.ones((1, 9), np.float32))
    out = ("-o", "d.safetensors")
    for words, code, expected in (
        ((model, "--model", model), 2, "two models"),
        (("--import", "age.npy"), 2, "no model"),
        ((model, "--layers", "2-3"), 2, "--layers without --import"),
        ((model, "--name", "age"), 2, "--name without --import"),
        ((model, "--import", "age.npy", "--layers", "3-2"), 2, "4-7"),
        ((model, "--import", "age.npy", "--layers", "2-6"), 2, "slots of this generator: 0 to 5"),
        ((model, "--import", "age.npy", "--count", 2), 2, "has 1 direction"),
        ((model, "--import", "wide.npy"), 3, "9 numbers; this generator has w_dim 8"),
        ((model, "--import", model), 3, "weights of a network"),
    ):
        ended = dcp("directions", *words, *out)
        assert ended.code == code and expected in ended.err
    assert not Path("d.safetensors").exists()


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


def test_eval_fails_after_its_figures_when_a_requirement_is_missed(
    dcp: Command, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = quality.Evaluation({"fid": 9.5, "recall": 0.8})
    monkeypatch.setattr(quality, "evaluate_file", lambda *_, **__: found)
    ended = dcp("eval", model, "-o", "m.json", "--require", "fid<2", "--require", "recall>0.5")
    assert ended.code == 5 and "fid 9.5, required below 2, missed by 7.5" in ended.err
    outcomes = json.loads(Path("m.json").read_text())["gates"]["requirements"]
    assert [one["passed"] for one in outcomes] == [False, True]
    assert dcp("eval", model, "--require", "recall>0.5").code == 0
    assert dcp("eval", model, "--require", "recall>0.5*teacher").code == 2


def test_eval_without_data_needs_a_model_like_the_demo(dcp: Command, model: Path) -> None:
    ended = dcp("eval", model)
    assert ended.code == 2 and "16 px" in ended.err and "--data" in ended.err
