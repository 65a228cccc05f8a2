"""The story that files of build and of the single verbs tell, and the check of a student's teacher."""

from __future__ import annotations

import json
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from safetensors.torch import load_file

from dcp_deploy import compression
from dcp_deploy.checkpoints import read_checkpoint, read_metadata, save_generator
from dcp_deploy.checkpoints.provenance import UNKNOWN_LICENCE
from dcp_deploy.compression import RECIPES
from dcp_deploy.config import BuildConfig
from dcp_deploy.efforts import EFFORTS
from dcp_deploy.files import sha256_file
from dcp_deploy.generators import Generator, GeneratorConfig, count_macs
from dcp_deploy.pipeline import builder, distilling
from dcp_deploy.pipeline.distilling import recipe_of
from dcp_deploy.pipeline.summary import describe_run
from dcp_deploy.report.run_directory import read_run_directory
from dcp_deploy.shipping.model_card import card_of_onnx, card_of_run

from .conftest import Command

STEPS = 2
UP_TO_THE_EXPORT = 5  # stages
FID = 0.6931555


def network(seed: int) -> Generator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Generator(GeneratorConfig(8, (8,) * 4, z_dim=8, w_dim=8, mapping_layers=2)).eval()


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a teacher that states a licence, and how good it is."""
    extra = {"licence": "CC BY 4.0", "metrics": {"fid": FID}}
    return save_generator(network(0), tmp_path_factory.mktemp("teacher") / "faces.safetensors", extra=extra)


@pytest.fixture(scope="module")
def run(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build up to the export."""
    out = tmp_path_factory.mktemp("run") / "faces"
    config = BuildConfig(teacher=teacher, out=out, steps=STEPS, align=4, seed=3, device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "STAGES", builder.STAGES[:UP_TO_THE_EXPORT])
        builder.build(config)
    return out


def story(path: Path | str) -> dict[str, Any]:
    found: dict[str, Any] = read_metadata(path)["extra"]
    return found


def metadata(path: Path | str) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}


def test_verbs_one_by_one_tell_the_story_of_a_build(dcp: Command, run: Path, teacher: Path) -> None:
    """And from a converted copy of the teacher under another name."""
    common = ("--seed", 3, "--device", "cpu")
    plan = ("--ratio", 0.7, "--align", 4, "--refine", "reconstruct")
    for words in (
        ("convert", teacher, "-o", "copy.safetensors"),
        ("score", teacher, "-o", "scores.safetensors", *common),
        ("prune", "copy.safetensors", "--scores", "scores.safetensors", "-o", "p.safetensors", *plan, *common),
        ("distill", "p.safetensors", "--teacher", teacher, "-o", "s.safetensors", "--steps", STEPS, *common),
        ("export", "s.safetensors", "--teacher", "copy.safetensors", "-o", "student.onnx"),
    ):
        ended = dcp(*words)
        assert ended.code == 0, ended.err
    for ours, theirs in (("copy", "teacher"), ("p", "pruned"), ("s", "student")):
        assert story(f"{ours}.safetensors") == story(run / f"{theirs}.safetensors")
    for name in ("student.onnx", "teacher.onnx"):
        assert metadata(name) == metadata(run / name)
    ours, theirs = load_file("s.safetensors"), load_file(run / "student.safetensors")
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_a_student_names_its_teacher_plan_scores_refinement_recipe_and_versions(run: Path, teacher: Path) -> None:
    found = story(run / "student.safetensors")
    assert found["teacher"].items() >= {"file": "faces.safetensors", "sha256": sha256_file(teacher)}.items()
    pruning, distillation = found["pruning"], found["distillation"]
    assert (pruning["verb"], pruning["ratio"], pruning["align"], pruning["target"]) == ("prune", 0.7, 4, None)
    assert pruning["scores"]["method"] == "change" and len(pruning["scores"]["sha256"]) == 64
    assert pruning["refinement"] == {"method": "reconstruct", "latents": 64, "seed": 3}
    assert (distillation["verb"], distillation["steps"], distillation["seed"]) == ("distill", STEPS, 3)
    assert distillation["perceptual"] == 0 and distillation["features"] == "none"  # as it was trained
    assert all(step["versions"].keys() == {"dcp-deploy", "torch"} for step in (pruning, distillation))


def test_a_teacher_s_metrics_and_folders_are_in_no_file_of_its_student(run: Path, teacher: Path) -> None:
    assert story(run / "teacher.safetensors")["metrics"] == {"fid": FID}  # they are its own
    for name in ("pruned.safetensors", "student.safetensors", "student.onnx"):
        content = (run / name).read_bytes()
        for text in (str(FID), "metrics", str(teacher.parent), str(run)):
            assert text.encode() not in content, (name, text)


def test_one_licence_in_safetensors_onnx_inspect_and_model_card(dcp: Command, run: Path) -> None:
    for name in ("student", "teacher"):
        checkpoint, exported = run / f"{name}.safetensors", run / f"{name}.onnx"
        for facts in (
            story(checkpoint),
            metadata(exported),
            dcp("inspect", checkpoint, "--json").json,
            dcp("inspect", exported, "--json").json,
            describe_run(run),
        ):
            assert (facts["licence"], facts["licence_source"]) == ("CC BY 4.0", "faces.safetensors")
    recorded = story(run / "student.safetensors")
    for card in (
        card_of_run("faces", run, read_run_directory(run), recorded),
        card_of_onnx("faces", metadata(run / "student.onnx"), recorded),
    ):
        assert "**Licence:** CC BY 4.0.\n\nStated by: faces.safetensors.\n" in card
        assert f"| teacher | faces.safetensors, sha256 {recorded['teacher']['sha256']} |" in card
        assert "| distilled | 2 steps of 8 images |" in card


def test_an_unknown_licence_has_one_wording(dcp: Command, tmp_path: Path) -> None:
    teacher = save_generator(network(0), tmp_path / "t.safetensors")
    assert dcp("prune", teacher, "--score", "random", "--align", 1, "-o", "p.safetensors").code == 0
    assert dcp("export", "p.safetensors", "-o", "p.onnx").code == 0
    inspected = [dcp("inspect", name, "--json").json for name in ("t.safetensors", "p.safetensors", "p.onnx")]
    assert {facts["licence"] for facts in inspected} == {UNKNOWN_LICENCE}
    assert story("p.safetensors")["licence"] == metadata("p.onnx")["licence"] == UNKNOWN_LICENCE
    assert f"**Licence:** {UNKNOWN_LICENCE}." in card_of_onnx("p", metadata("p.onnx"), {})


def test_another_teacher_is_refused_and_can_be_forced(dcp: Command, run: Path, tmp_path: Path) -> None:
    other = save_generator(network(1), tmp_path / "other.safetensors")
    words = ("distill", run / "pruned.safetensors", "--teacher", other, "-o", "s.safetensors", "--steps", 1)
    refused = dcp(*words)
    assert refused.code == 2 and not Path("s.safetensors").exists()
    assert "pruned.safetensors was pruned from faces.safetensors" in refused.err
    assert "not from other.safetensors" in refused.err and "--force-teacher" in refused.err
    forced = dcp(*words, "--force-teacher")
    assert forced.code == 0 and "--force-teacher takes it nevertheless" in forced.err
    assert story("s.safetensors")["distillation"]["teacher"]["file"] == "other.safetensors"


@pytest.mark.parametrize(("layout", "name"), [("rosinality", "t.pt"), ("nvidia", "t.safetensors")])
def test_a_converted_teacher_is_the_same_teacher(
    dcp: Command, run: Path, teacher: Path, layout: str, name: str
) -> None:
    assert dcp("convert", teacher, "-o", name, "--to", layout).code == 0
    ended = dcp("distill", run / "pruned.safetensors", "--teacher", name, "-o", "s.safetensors", "--steps", 1)
    assert ended.code == 0 and "pruned from" not in ended.err
    assert story("s.safetensors")["teacher"]["file"] == "faces.safetensors"


def test_a_student_without_a_record_is_accepted_with_a_note(dcp: Command, teacher: Path, tmp_path: Path) -> None:
    older = save_generator(network(2), tmp_path / "old.safetensors", extra={"metrics": {"fid": FID}})
    ended = dcp("distill", older, "--teacher", teacher, "-o", "s.safetensors", "--steps", 1)
    assert ended.code == 0 and "old.safetensors does not record which teacher it was pruned from" in ended.err
    assert "metrics" not in json.dumps(story("s.safetensors"))
    assert story("s.safetensors")["licence"] == "CC BY 4.0"


def test_a_student_keeps_its_story_in_another_layout(dcp: Command, run: Path) -> None:
    assert dcp("convert", run / "student.safetensors", "-o", "s.pt", "--to", "rosinality").code == 0
    found = read_checkpoint("s.pt")
    assert found.licence == "CC BY 4.0"
    assert found.story.items() >= story(run / "student.safetensors").items()


def test_options_for_gpus_are_noted_on_a_cpu(dcp: Command, run: Path, teacher: Path) -> None:
    words = ("distill", run / "pruned.safetensors", "--teacher", teacher, "-o", "s.safetensors", "--steps", 1)
    ended = dcp(*words, "--device", "cpu", "--devices", 2, "--train-precision", "fp16")
    assert ended.code == 0
    assert "without a GPU, --devices 2 are processes on this CPU" in ended.err
    assert "--train-precision fp16 without a GPU works, but most CPUs compute it more slowly" in ended.err


def test_the_verbs_with_their_defaults_make_the_student_of_build_for_the_demo(
    dcp: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores, plan, refinement, recipe, real images and perceptual features: one set of defaults."""
    monkeypatch.setattr(distilling, "_measure_demo", lambda seed: lambda average: {"fid": 1.0})  # changes no student
    monkeypatch.setitem(EFFORTS, "quick", replace(EFFORTS["quick"], refine_latents=8))  # of all three alike
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "STAGES", builder.STAGES[: UP_TO_THE_EXPORT - 1])
        builder.build(BuildConfig(out=tmp_path / "run", steps=STEPS, device="cpu"))
    teacher = tmp_path / "run" / "teacher.safetensors"
    for words in (
        ("score", teacher, "-o", "scores.safetensors"),
        ("prune", teacher, "--scores", "scores.safetensors", "-o", "p.safetensors"),
        ("distill", "p.safetensors", "--teacher", teacher, "-o", "s.safetensors", "--steps", STEPS),
        ("prune", teacher, "-o", "scored.safetensors"),
    ):
        ended = dcp(*words, "--device", "cpu")
        assert ended.code == 0, ended.err
    for ours, theirs in (("p", "pruned"), ("scored", "pruned"), ("s", "student")):
        assert story(f"{ours}.safetensors") == story(tmp_path / "run" / f"{theirs}.safetensors")
        tensors = load_file(tmp_path / "run" / f"{theirs}.safetensors")
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in load_file(f"{ours}.safetensors").items())


def test_the_library_has_the_defaults_of_build() -> None:
    """So the calls of README make the student of build too."""
    config, recipe = BuildConfig(), RECIPES[BuildConfig().effort]
    assert signature(compression.score).parameters["method"].default == config.score
    assert signature(compression.prune).parameters["refine"].default == config.refine
    for name in ("ratio", "align"):
        assert signature(compression.plan).parameters[name].default == getattr(config, name)
    generator = network(0)
    counts = config.counts.for_teacher(count_macs(generator.config))
    scores = compression.score(generator, method="style")
    assert scores.settings["latents"] == counts.score_latents
    assert recipe_of(config, demo_recipe=False) == recipe
