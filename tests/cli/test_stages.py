"""The verbs that make files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dcp_deploy.checkpoints import load_generator, save_generator
from dcp_deploy.config import read_toml
from dcp_deploy.generators import Generator, GeneratorConfig

from .conftest import Command


def test_convert_writes_the_same_network(dcp: Command, tmp_path: Path, models: Path) -> None:
    assert dcp("convert", models / "t.safetensors", "-o", "c.safetensors").code == 0
    before, after = load_file(models / "t.safetensors"), load_file(tmp_path / "c.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(("layout", "name"), [("rosinality", "c.pt"), ("nvidia", "c.pth"), ("nvidia", "c.safetensors")])
def test_convert_writes_the_layouts_of_the_original_code(
    dcp: Command, tmp_path: Path, models: Path, layout: str, name: str
) -> None:
    ended = dcp("convert", models / "t.safetensors", "-o", name, "--to", layout, "--json")
    assert ended.code == 0 and ended.json["layout"] == layout
    assert bool(ended.json["notes"]) == (layout == "rosinality")  # 8 channels everywhere: no channel_multiplier
    assert all(note in ended.err for note in ended.json["notes"])
    assert read_toml(tmp_path / f"{name}.toml")["to"] == layout
    before = load_file(models / "t.safetensors")
    if layout == "rosinality":
        after = load_generator(tmp_path / name).state_dict()
    elif name.endswith(".pth"):
        after = torch.load(tmp_path / name, weights_only=True)
    else:
        after = load_file(tmp_path / name)
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("-o", "c.pt", "--to", "onnx"), "--to 'onnx'"),
        (("-o", "c.safetensors", "--to", "rosinality"), "does not end in .pt or .pth"),
        (("-o", "c.onnx", "--to", "nvidia"), "does not end in .pt or .pth or .safetensors"),
        (("-o", "t.safetensors"), "--out t.safetensors is the file that this command reads"),
        (("-o", "t.safetensors", "--to", "nvidia"), "--out t.safetensors is the file that this command reads"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_convert_refuses_what_makes_no_sense(
    dcp: Command, tmp_path: Path, models: Path, words: tuple[str, ...], named: str
) -> None:
    before = (models / "t.safetensors").read_bytes()
    (tmp_path / "t.safetensors").write_bytes(before)
    ended = dcp("convert", "t.safetensors", *words)
    assert ended.code == 2 and named in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["t.safetensors"]
    assert (tmp_path / "t.safetensors").read_bytes() == before


def test_score_then_prune_keeps_what_the_plan_says(dcp: Command, tmp_path: Path, models: Path) -> None:
    teacher = models / "t.safetensors"
    assert dcp("score", teacher, "-o", "s.safetensors", "--latents", 10, "--directions", 2, "--quiet").err == ""
    plan = dcp("prune", teacher, "--scores", "s.safetensors", "-o", "p.safetensors", "--align", 2, "--json").json[
        "plan"
    ]
    assert load_generator(tmp_path / "p.safetensors").widths == tuple(plan["student"]["widths"]) == (4,) * 6


def test_prune_dry_run_writes_nothing(dcp: Command, tmp_path: Path, models: Path) -> None:
    words = ("--score", "random", "--ratio", "0.5", "--align", "1", "-o", "p.safetensors", "--dry-run")
    ended = dcp("prune", models / "t.safetensors", *words)
    assert "fewer" in ended.out and "latency: " in ended.out
    assert not (tmp_path / "p.safetensors").exists()


def test_a_latency_is_planned_in_milliseconds(dcp: Command, models: Path) -> None:
    words = ("prune", models / "t.safetensors", "--score", "random", "--align", "1", "-o", "p.safetensors", "--dry-run")
    assert dcp(*words, "--target-latency", "1000ms", "--json").json["target"] == "latency 1000 ms"
    assert "'soon' is not a time" in dcp(*words, "--target-latency", "soon").err
    assert "'0ms' is not a time" in dcp("build", "--target-latency", "0ms").err


def test_prune_puts_shards_together(dcp: Command, models: Path) -> None:
    for i in (0, 1):
        words = (
            "--score",
            "diversity",
            "--latents",
            8,
            "--directions",
            2,
            "--batch",
            2,
            "--shard",
            f"{i}/2",
            "-o",
            f"{i}.safetensors",
        )
        dcp("score", models / "t.safetensors", *words)
    both = ("--scores", "0.safetensors", "--scores", "1.safetensors", "--align", 1, "-o", "p.safetensors")
    assert dcp("prune", models / "t.safetensors", *both, "--dry-run").code == 0
    ended = dcp("prune", models / "t.safetensors", *both[2:], "--dry-run")
    assert ended.code == 2 and "shards are missing: 0/2" in ended.err


def test_prune_puts_moments_of_shards_together(dcp: Command, models: Path) -> None:
    teacher, words = models / "t.safetensors", ("--score", "hybrid", "--latents", 4, "--directions", 2)
    for i in range(2):
        dcp("score", teacher, *words, "--shard", f"{i}/2", "-o", f"{i}.safetensors")
    whole = dcp("score", teacher, *words, "-o", "whole.safetensors", "--json").json["scoring"]
    assert (whole["method"], whole["hybrid_share"], whole["alpha"]) == ("hybrid", 0.5, 3.0)
    parts = ("--scores", "0.safetensors", "--scores", "1.safetensors")
    dcp("prune", teacher, *parts, "--align", 1, "-o", "p.safetensors")
    dcp("prune", teacher, "--scores", "whole.safetensors", "--align", 1, "-o", "q.safetensors")
    pruned, other = (load_file(f"{name}.safetensors") for name in "pq")
    assert all(torch.equal(tensor, other[name]) for name, tensor in pruned.items())


def test_a_share_of_the_hybrid_changes_what_prune_keeps(dcp: Command, models: Path) -> None:
    words = ("--score", "hybrid", "--align", 1, "--refine", "none", "-o")
    for share in (0, 1):
        dcp("prune", models / "t.safetensors", *words, f"{share}.safetensors", "--hybrid-share", share)
    dcp("prune", models / "t.safetensors", *("--score", "weight-out", *words[2:], "weights.safetensors"))
    none, whole, weights = (load_file(f"{name}.safetensors") for name in ("0", "1", "weights"))
    assert all(torch.equal(tensor, none[name]) for name, tensor in weights.items())
    assert not all(torch.equal(tensor, whole[name]) for name, tensor in weights.items())


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (("--hybrid-share", 50), "for 50 % write 0.5"),
        (("--change-weight", 2), "Give 1 for changes alone"),
        (("--directions", 9, "--latents", 5), "no more than latents"),
        (("--latents", "auto"), "Give a number of latents, or use --score diversity."),
        (("--released",), "omit --released"),
    ],
)
def test_settings_of_the_hybrid_that_cannot_work_are_refused(
    dcp: Command, models: Path, words: tuple[Any, ...], remedy: str
) -> None:
    ended = dcp("score", models / "t.safetensors", "--score", "hybrid", *words, "-o", "s.safetensors")
    assert ended.code == 2 and remedy in " ".join(ended.err.split()) and not Path("s.safetensors").exists()


def test_prune_to_a_target_stays_within_it(dcp: Command, models: Path) -> None:
    words = ("--score", "weight-out", "--target-macs", "0.5", "--align", "1", "-o", "p.safetensors", "--dry-run")
    plan = dcp("prune", models / "t.safetensors", *words, "--json").json
    assert plan["target"] == "macs 0.5"
    assert 0.4 < plan["student"]["macs"] / plan["teacher"]["macs"] <= 0.5


def test_score_says_how_far_two_halves_agree(dcp: Command, models: Path) -> None:
    words = (
        "--score",
        "diversity",
        "--latents",
        12,
        "--directions",
        2,
        "--batch",
        3,
        "--released",
        "-o",
        "s.safetensors",
    )
    ended = dcp("score", models / "t.safetensors", *words)
    assert "two halves of the 12 latents keep" in ended.err


def test_distill_trains_the_student(dcp: Command, tmp_path: Path, models: Path) -> None:
    teacher = models / "t.safetensors"
    dcp("prune", teacher, "--score", "random", "--align", "1", "-o", "p.safetensors")
    ended = dcp("distill", "p.safetensors", "--teacher", teacher, "-o", "d.safetensors", "--steps", 2, "--json")
    assert [entry["step"] for entry in ended.json["history"]] == [0, 2]
    assert load_generator(tmp_path / "d.safetensors").widths == load_generator(tmp_path / "p.safetensors").widths


@pytest.mark.parametrize(("dataset", "named"), [("demo", "teacher generates 16 px"), ("dmeo", "Did you mean demo?")])
def test_distill_refuses_a_data_set_that_does_not_fit(dcp: Command, models: Path, dataset: str, named: str) -> None:
    teacher = models / "t.safetensors"
    ended = dcp("distill", teacher, "--teacher", teacher, "-o", "d.safetensors", "--steps", 1, "--dataset", dataset)
    assert ended.code == 2 and named in ended.err


def test_distill_describes_the_real_images(dcp: Command, tmp_path: Path, models: Path) -> None:
    teacher, folder = models / "t.safetensors", tmp_path / "photos"
    folder.mkdir()
    for index in range(4):
        Image.new("RGB", (24, 20), (index,) * 3).save(folder / f"{index}.png")
    dcp("prune", teacher, "--score", "random", "--align", "1", "-o", "p.safetensors")
    words = ("distill", "p.safetensors", "--teacher", teacher, "-o", "d.safetensors", "--steps", 1, "--data", folder)
    refused = dcp(*words)
    assert refused.code == 2 and "is 24x20 px, not 16x16" in refused.err and "--resize crop" in refused.err
    ended = dcp(*words, "--resize", "crop", "--mirror", "--json")
    assert ended.json["images"]["images"] == 4 and ended.json["images"]["kind"] == "folder"
    assert ended.json["images"]["mirrored"] is True and ended.json["images"]["in_training"] is False
    assert f"4 of {folder} (folder)" in ended.err and "training does not look at them" in ended.err
    assert read_toml(tmp_path / "d.safetensors.toml")["data"] == str(folder)


def test_export_leaves_its_settings_beside_the_file(models: Path) -> None:
    settings = read_toml(models / "t.onnx.toml")
    assert (settings["image"], settings["upsample"], settings["noise"]) == ("uint8", "transposed", "const")


def test_export_also_exports_a_teacher_in_the_chosen_form(dcp: Command) -> None:
    network = Generator(GeneratorConfig(8, (8,) * 4, z_dim=8, w_dim=8, mapping_layers=2))  # each export takes seconds
    teacher = save_generator(network, "t.safetensors")
    words = ("--inputs", "ws", "--noise", "none", "--upsample", "polyphase", "--batch", "1,8", "--inline", "--json")
    ended = dcp("export", teacher, "-o", "s.onnx", "--teacher", teacher, *words)
    assert ended.code == 0 and ended.json["teacher"] == "teacher.onnx"
    assert (ended.json["ir_version"], ended.json["opset"], ended.json["inlined"]) == (8, 17, True)
    assert ended.json["batch"] == [1, 8] and ended.json["runs_in"].startswith("ONNX Runtime 1.13 and Triton 23.04")
    student, beside = (dcp("inspect", name, "--json").json for name in ("s.onnx", "teacher.onnx"))
    for facts in (student, beside):
        assert list(facts["inputs"]) == ["ws"] and facts["metadata"]["batch"] == "1,8"
        assert (facts["metadata"]["upsample"], facts["metadata"]["noise"]) == ("polyphase", "none")
    assert student["metadata"]["teacher_sha256"] == beside["metadata"]["weights_sha256"]


def test_export_refuses_what_makes_no_sense(dcp: Command, models: Path) -> None:
    teacher = models / "t.safetensors"
    refused = dcp("export", teacher, "-o", "teacher.onnx", "--teacher", teacher)
    assert refused.code == 2 and "where the teacher goes" in refused.err
    assert dcp("export", teacher, "-o", "s.onnx", "--batch", "1,4,8").code == 2
    assert "opset 16 is not one of 17 to" in dcp("export", teacher, "-o", "s.onnx", "--opset", "16").err
    assert "IR version 7 is not one of 8 to" in dcp("export", teacher, "-o", "s.onnx", "--ir", "7").err
    assert dcp("export", teacher, "-o", "s.onnx", "--upsample", "auto").code == 2
    assert not Path("s.onnx").exists()


def test_engine_builds_for_a_named_gpu_without_one(dcp: Command, tmp_path: Path, models: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is an extra")
    ended = dcp("engine", models / "t.onnx", "-o", "t.engine", "--target", "RTX 4090", "--batch", "1,2,4", "--json")
    assert ended.json["manifest"]["targets"] == ["sm89"]
    facts = dcp("inspect", "t.engine", "--json").json
    assert facts["format"] == "engine" and facts["widths"] == [8] * 6 and facts["parameters"] > 0
