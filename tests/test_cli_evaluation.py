"""The verbs that measure, edit and project, in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dcp_deploy import evaluation
from dcp_deploy.checkpoints import save_generator
from dcp_deploy.checkpoints.directions import read_directions
from dcp_deploy.cli import app
from dcp_deploy.generators import Generator, GeneratorConfig

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def dcp(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """``dcp("eval", path)``: exit code, stdout, stderr of the command, in a working directory of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            app([str(word) for word in words], prog_name="dcp-deploy")
        out, err = capfd.readouterr()
        return int(end.value.code or 0), out, err

    return run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 16 px generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        generator = Generator(GeneratorConfig(16, (8,) * 6, z_dim=8, w_dim=8, mapping_layers=2)).eval()
    return save_generator(generator, tmp_path_factory.mktemp("model") / "g.safetensors")


def test_directions_are_found_and_edit_a_sample(dcp: Run, model: Path) -> None:
    code, out, _ = dcp("directions", model, "-o", "d.safetensors", "--count", 3, "--json")
    told = json.loads(out)
    assert code == 0 and list(told["directions"]) == ["pc0", "pc1", "pc2"]
    assert read_directions(Path("d.safetensors"))["pc0"].sigma == pytest.approx(told["directions"]["pc0"]["sigma"])
    assert dcp("sample", model, "--seeds", "0-1", "-o", "plain.png")[0] == 0
    edit = ("--direction", "pc0=2", "--direction", "pc2=-1.5", "--directions", "d.safetensors")
    assert dcp("sample", model, "--seeds", "0-1", "-o", "edited.png", *edit)[0] == 0
    assert Path("plain.png").read_bytes() != Path("edited.png").read_bytes()
    assert dcp("sample", model, "--config", "edited.png.toml", "-o", "again.png")[0] == 0
    assert Path("again.png").read_bytes() == Path("edited.png").read_bytes()


def test_an_edit_that_cannot_be_is_a_usage_error(dcp: Run, model: Path) -> None:
    code, _, err = dcp("sample", model, "--direction", "pc0=2")
    assert code == 2 and "--directions FILE" in err
    assert dcp("directions", model, "-o", "d.safetensors", "--count", 2, "--quiet")[0] == 0
    code, _, err = dcp("sample", model, "--direction", "smile=2", "--directions", "d.safetensors")
    assert code == 2 and "smile=2" in err and "pc0" in err
    code, _, err = dcp("directions", model, "-o", "d.bin")
    assert code == 2 and "d.safetensors" in err


def test_project_reports_both_models_and_writes_what_it_found(dcp: Run, model: Path) -> None:
    Image.new("RGB", (20, 16), "gray").save("face.png")
    words = ("project", "face.png", "--model", model, "--teacher", model, "--steps", 3, "-o", "found")
    code, _, err = dcp(*words)
    assert code == 2 and "--resize crop" in err
    code, out, _ = dcp(*words, "--resize", "crop", "--space", "w+", "--json")
    told: dict[str, Any] = json.loads(out)
    assert code == 0 and told["models"]["model"] == told["models"]["teacher"] and told["models"]["model"]["mse"] > 0
    assert (told["space"], told["steps"], told["loss"]) == ("w+", 3, "mse")
    assert json.loads(Path("found/projection.json").read_text()).items() <= told.items()
    assert load_file("found/ws.safetensors")["model"].shape == (1, 6, 8)
    assert dcp("project", "nowhere.png", "--model", model)[0] == 3


def test_eval_prints_figures_reasons_and_the_table_of_modes(
    dcp: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"factor": "hat", "value": "top_hat", "data": 0.05, "samples": 0.04, "ratio": 0.8}
    seen: list[Any] = []

    def measure(path: Path, against: evaluation.Against, **settings: Any) -> evaluation.Evaluation:
        seen.append((path, against, settings["samples"]))
        return evaluation.Evaluation({"fid": 1.25, "modes": [row]}, {"lpips": "no weights here"})

    monkeypatch.setattr(evaluation, "evaluate_file", measure)
    code, out, _ = dcp("eval", model, "--teacher", model, "--samples", 700, "-o", "m.json")
    assert code == 0 and seen == [(model, evaluation.Against(teacher=model), 700)]
    lines = [line.split() for line in out.splitlines()]
    assert ["fid", "1.25"] in lines
    assert ["hat", "top_hat", "0.0500", "0.0400", "0.80"] in lines
    assert "not measured: no weights here" in out
    assert json.loads(Path("m.json").read_text())["modes"] == [row]
    told = json.loads(dcp("eval", model, "--json")[1])
    assert told["not_measured"] == {"lpips": "no weights here"}


def test_eval_without_data_wants_a_model_of_the_demos_kind(dcp: Run, model: Path) -> None:
    code, _, err = dcp("eval", model)
    assert code == 2 and "16 px" in err and "--data" in err
