"""The verbs that look at models."""

from __future__ import annotations

import json
from pathlib import Path

import onnx

from dcp_deploy.checkpoints import load_generator, save_generator

from .conftest import Command


def test_what_export_wrote_verifies(dcp: Command, models: Path) -> None:
    words = ("--latents", 4, "--psi", "1", "-o", "v.json", "--json")
    ended = dcp("verify", models / "t.safetensors", models / "t.onnx", *words)
    assert ended.code == 0 and ended.json["passed"] is True
    assert json.loads(Path("v.json").read_text())["passed"] is True


def test_verify_fails_with_its_figures_when_images_differ(dcp: Command, tmp_path: Path, models: Path) -> None:
    other = load_generator(models / "t.safetensors")
    other.synthesis.b4.conv1.weight.data.mul_(-1)
    save_generator(other, tmp_path / "o.safetensors")
    words = ("--latents", 4, "-o", "v.json", "--worst", "worst.png")
    ended = dcp("verify", "o.safetensors", models / "t.onnx", *words)
    assert ended.code == 5
    assert "differ" in ended.err and "FAILED" in ended.out
    assert json.loads((tmp_path / "v.json").read_text())["passed"] is False
    assert (tmp_path / "worst.png").read_bytes()[:4] == b"\x89PNG"


def test_verify_names_the_first_layer_that_differs(dcp: Command, tmp_path: Path, models: Path) -> None:
    other = load_generator(models / "t.safetensors")
    other.synthesis.b8.conv1.bias.data += 1
    save_generator(other, tmp_path / "o.safetensors")
    words = ("--latents", 4, "--bisect", "-o", "v.json", "--backend-a", "fused", "--precision", "fp16")
    ended = dcp("verify", "o.safetensors", models / "t.onnx", *words)
    assert ended.code == 5
    assert "the first layer out of tolerance is b8.conv1" in ended.err and "relative error" in ended.out
    document = json.loads((tmp_path / "v.json").read_text())
    assert document["layers"]["first"] == "b8.conv1"
    assert (document["precision"], document["a"]["backend"]) == ("fp16", "fused")


def test_verify_refuses_an_export_that_ignores_psi(dcp: Command, tmp_path: Path, models: Path) -> None:
    model = onnx.load(models / "t.onnx")
    reader = next(node for node in model.graph.node if "psi" in node.input)
    reader.input[list(reader.input).index("psi")] = "one"
    model.graph.node.insert(0, onnx.helper.make_node("Div", ["psi", "psi"], ["one"]))
    onnx.save(model, tmp_path / "b.onnx")
    ended = dcp("verify", models / "t.safetensors", "b.onnx", "--latents", 4, "--bisect")
    assert ended.code == 5
    assert "the first layer out of tolerance is styles.b4.conv1" in ended.err


def test_bench_compares_with_the_teacher(dcp: Command, models: Path) -> None:
    words = ("--teacher", models / "t.safetensors", "--rounds", 3, "--seconds", 0, "--json")
    document = dcp("bench", models / "t.onnx", *words).json
    teacher, model = document["rows"]
    assert (teacher["labels"]["backend"], model["labels"]["backend"]) == ("torch", "onnxruntime")
    assert document["baseline"] == teacher["name"] and model["speedup"]["value"] > 0


def test_eval_refuses_what_its_features_cannot_read(dcp: Command, models: Path) -> None:
    ended = dcp("eval", models / "t.onnx")
    assert ended.code == 2 and "16 px" in ended.err
