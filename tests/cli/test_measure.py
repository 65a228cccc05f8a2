"""The verbs that look at models."""

from __future__ import annotations

import json
from pathlib import Path

import onnx

from dcp_deploy.checkpoints import load_generator, save_generator
from dcp_deploy.devices import default_threads

from .conftest import Command


def test_an_exported_file_passes_verify(dcp: Command, models: Path) -> None:
    words = ("--latents", 4, "--psi", "1", "-o", "v.json", "--json")
    ended = dcp("verify", models / "t.safetensors", models / "t.onnx", *words)
    assert ended.code == 0 and ended.json["passed"] is True
    assert json.loads(Path("v.json").read_text())["passed"] is True
    shown = dcp("verify", models / "t.safetensors", models / "t.onnx", *words[:4]).out
    assert shown.splitlines()[-1].startswith("passed: t.onnx generates the same images as t.safetensors")


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


def test_bench_fails_after_its_figures_when_a_required_speedup_is_missed(dcp: Command, models: Path) -> None:
    words = ("--teacher", models / "t.safetensors", "--rounds", 3, "--seconds", 0, "-o", "b.json")
    ended = dcp("bench", models / "t.onnx", *words, "--require", "speedup>1000")
    assert ended.code == 5 and "required above 1000" in ended.err
    assert json.loads(Path("b.json").read_text())["gates"]["passed"] is False
    unstable = dcp("bench", models / "t.onnx", *words, "--require", "speedup>0")  # too few rounds to be trusted
    assert unstable.code == 5 and "too few rounds" in unstable.err
    assert dcp("bench", models / "t.onnx", "--require", "fid<2").code == 2


def test_all_candidates_get_the_same_threads(dcp: Command, models: Path) -> None:
    words = ("--teacher", models / "t.safetensors", "--rounds", 2, "--seconds", 0, "--json")
    rows = dcp("bench", models / "t.onnx", *words).json["rows"]
    assert [row["labels"]["threads"] for row in rows] == [default_threads()] * 2


def test_bench_lists_skipped_candidates_with_the_reason(dcp: Command, models: Path, tmp_path: Path) -> None:
    words = ("--backends", "onnxruntime,tensorrt", "--batch", "1,2", "--rounds", 2, "--seconds", 0)
    files = ("--markdown", tmp_path / "b.md", "--plot", tmp_path / "b.svg")
    document = dcp("bench", models / "t.onnx", *words, *files, "--json").json
    assert [row["name"] for row in document["rows"]] == [
        "model, ONNX Runtime, batch 1", "model, ONNX Runtime, batch 2",
    ]  # fmt: skip
    assert [one["name"] for one in document["skipped"]] == ["model, TensorRT"]
    assert document["rows"][1]["roofline"]["floor_ms"] > 0 and document["ceilings"]
    assert dcp("bench", models / "t.onnx", "--bound", 0).code == 2
    assert dcp("bench", models / "t.onnx", "--plot", "b.pdf").code == 2
    assert "Skipped: model, TensorRT: no tensorrt engine" in (tmp_path / "b.md").read_text()
    assert "images per call" in (tmp_path / "b.svg").read_text()


def test_bench_names_the_fastest_backend_with_the_right_images(dcp: Command, models: Path, tmp_path: Path) -> None:
    other = load_generator(models / "t.safetensors")
    other.synthesis.b4.conv1.weight.data.mul_(-1)
    save_generator(other, tmp_path / "o.safetensors")
    assert dcp("export", "o.safetensors", "-o", "o.onnx").code == 0
    words = ("--rounds", 2, "--seconds", 0, "-o", "b.json", "--backends", "torch,onnxruntime")
    ended = dcp("bench", models / "t.safetensors", models / "t.onnx", "o.onnx", *words)
    assert ended.code == 0
    assert "Fastest with the images of model, torch eager: model, ONNX Runtime, t.onnx" in " ".join(ended.out.split())
    tried = {one["name"]: one["passed"] for one in json.loads(Path("b.json").read_text())["fastest"]["tried"]}
    assert tried.pop("model, ONNX Runtime, t.onnx") is True and not any(tried.values())


def test_bench_compare_gives_verdicts_and_gates(dcp: Command, tmp_path: Path) -> None:
    def written(name: str, milliseconds: float) -> Path:
        row = {"name": "student", "samples_ms": [milliseconds] * 20}
        (tmp_path / name).write_text(json.dumps({"schema": 1, "batch": 1, "rows": [row]}))
        return tmp_path / name

    a, b = written("a.json", 10.0), written("b.json", 12.0)
    assert dcp("bench", "compare", a, b, "--json").json["rows"][0]["verdict"] == "slower"
    assert dcp("bench", "compare", a, b, "--fail-above", 1.25).code == 0
    failed = dcp("bench", "compare", a, b, "--fail-above", 1.05)
    assert failed.code == 5 and "1.20x [1.20, 1.20] is above 1.05" in failed.err
    assert dcp("bench", "compare", a, b, "--fail-above", -1).code == 2
    assert "--fail-above" in dcp("bench", "compare", "--help").out
