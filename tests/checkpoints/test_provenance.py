"""Stories of files: identity of networks, one licence, and the check of a student's teacher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dcp_deploy.checkpoints import Checkpoint, read_checkpoint, save_generator
from dcp_deploy.checkpoints.layouts import Layout, save_layout
from dcp_deploy.checkpoints.provenance import (
    UNKNOWN_LICENCE,
    as_texts,
    check_teacher,
    distilled_story,
    licence_of,
    of_texts,
    provenance,
    pruned_story,
    story_in,
    tensors_sha256,
)
from dcp_deploy.errors import UsageError
from dcp_deploy.generators import Generator, GeneratorConfig

TERMS = {"licence": "CC BY 4.0", "licence_source": "faces.pkl"}


def network(seed: int, widths: tuple[int, ...] = (4, 3, 3, 2)) -> Generator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Generator(GeneratorConfig(8, widths, z_dim=6, w_dim=6, mapping_layers=1)).eval()


def native(seed: int, **story: Any) -> Checkpoint:
    return Checkpoint(network(seed), "native", extra=story)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    extra = {"licence": "Apache-2.0", "metrics": {"fid": 0.69}}
    return save_generator(network(0), tmp_path / "teacher.safetensors", extra=extra)


# ---- identity ----


def test_the_identity_sees_every_tensor() -> None:
    generator = network(0)
    before = tensors_sha256(generator)
    assert before == tensors_sha256(network(0)) != tensors_sha256(network(1))
    for name, tensor in generator.state_dict().items():
        value = tensor.flatten()[0].clone()
        tensor.view(-1)[0] += 1
        assert tensors_sha256(generator) != before, name
        tensor.view(-1)[0] = value
    assert tensors_sha256(generator) == before


@pytest.mark.parametrize(("layout", "name"), [("rosinality", "c.pt"), ("nvidia", "c.pt"), ("nvidia", "c.safetensors")])
def test_a_converted_network_keeps_identity_and_story(teacher: Path, layout: Layout, name: str, tmp_path: Path) -> None:
    """And so the licence: the layout of NVIDIA's code does not make the weights NVIDIA's."""
    original = read_checkpoint(teacher)
    story = provenance(original, teacher)
    save_layout(original.generator, tmp_path / name, layout, licence=story["licence"], provenance=story)
    converted = read_checkpoint(tmp_path / name)
    assert tensors_sha256(converted.generator) == tensors_sha256(original.generator)
    assert converted.licence == "Apache-2.0"
    assert provenance(converted, tmp_path / name) == story
    assert story["source"]["file"] == story["licence_source"] == "teacher.safetensors"


# ---- licence ----


@pytest.mark.parametrize(
    ("checkpoint", "licence", "source"),
    [
        (native(0, **TERMS), "CC BY 4.0", "faces.pkl"),
        (native(0, licence="MIT"), "MIT", "file.pt"),
        (native(0, source={"licence": "MIT"}), "MIT", "file.pt"),  # as an older release wrote
        (native(0, licence=UNKNOWN_LICENCE), UNKNOWN_LICENCE, None),
        (native(0, licence=["MIT"], source=3), UNKNOWN_LICENCE, None),
        (Checkpoint(network(0), "nvidia", licence="research"), "research", "the format of file.pt (nvidia)"),
        (Checkpoint(network(0), "rosinality"), UNKNOWN_LICENCE, None),
    ],
    ids=["recorded", "native", "older", "unknown", "malformed", "format", "silent format"],
)
def test_the_licence_and_what_states_it(checkpoint: Checkpoint, licence: str, source: str | None) -> None:
    expected = {"licence": licence} if source is None else {"licence": licence, "licence_source": source}
    assert licence_of(checkpoint, "folder/file.pt") == expected


def test_a_preset_s_terms_hold_unless_the_file_states_its_own(teacher: Path) -> None:
    published = ("NC", "https://host/faces.pkl")
    for format_ in ("nvidia", "rosinality"):
        found = provenance(Checkpoint(network(0), format_, licence=None), teacher, published=published)
        assert (found["licence"], found["licence_source"]) == published
    assert provenance(read_checkpoint(teacher), teacher, published=published)["licence"] == "Apache-2.0"


# ---- stories of students ----


def test_a_student_of_a_student_names_both_teachers_and_inherits_no_metrics(teacher: Path, tmp_path: Path) -> None:
    first = pruned_story(read_checkpoint(teacher), teacher, {"ratio": 0.5})
    assert first["teacher"]["file"] == "teacher.safetensors" and first["licence"] == "Apache-2.0"
    student = Checkpoint(network(1), "native", extra={**first, "metrics": {"fid": 1}})
    path = save_generator(student.generator, tmp_path / "student.safetensors", extra=student.extra)
    second = pruned_story(read_checkpoint(path), path, {"ratio": 0.3})
    assert second["teacher"]["teacher"] == first["teacher"]
    assert second["licence_source"] == "teacher.safetensors"
    assert "metrics" not in json.dumps([first, second])


def test_an_older_student_gets_the_story_of_the_teacher_it_is_distilled_from(teacher: Path) -> None:
    older = native(1, licence="Apache-2.0", metrics={"fid": 0.69}, teacher="ffhq")
    story = distilled_story(older, read_checkpoint(teacher), teacher, {"steps": 2})
    assert story.keys() == {"licence", "licence_source", "teacher", "distillation"}
    assert story["teacher"]["tensors_sha256"] == tensors_sha256(network(0))


# ---- the student's teacher ----


def test_only_the_teacher_that_a_student_was_pruned_from_is_accepted(teacher: Path) -> None:
    original, other = read_checkpoint(teacher), native(2, licence="MIT")
    student = native(1, **pruned_story(original, teacher, {"ratio": 0.5}))
    assert check_teacher(student, "p.safetensors", original, "renamed.pt") is None
    with pytest.raises(UsageError, match=r"p\.safetensors was pruned from teacher\.safetensors .*not from other\.pt"):
        check_teacher(student, "p.safetensors", other, "folder/other.pt")
    assert "--force-teacher" in str(check_teacher(student, "p.safetensors", other, "other.pt", force=True))
    assert "does not record" in str(check_teacher(native(1), "p.safetensors", other, "other.pt"))


def test_a_forced_teacher_is_recorded_beside_the_first_and_both_licences_hold(teacher: Path, tmp_path: Path) -> None:
    path = save_generator(network(2), tmp_path / "other.safetensors", extra={"licence": "MIT"})
    student = native(1, **pruned_story(read_checkpoint(teacher), teacher, {"ratio": 0.5}))
    story = distilled_story(student, read_checkpoint(path), path, {"steps": 2})
    assert story["teacher"]["file"] == "teacher.safetensors"
    assert story["distillation"]["teacher"]["file"] == "other.safetensors"
    assert story["licence"] == "Apache-2.0; MIT"
    assert story["licence_source"] == "teacher.safetensors; other.safetensors"


# ---- texts ----


def test_a_story_survives_the_metadata_of_an_onnx_file(teacher: Path) -> None:
    story = pruned_story(read_checkpoint(teacher), teacher, {"ratio": 0.5, "target": None})
    assert of_texts(as_texts(story)) == story
    assert as_texts({}) == {"licence": UNKNOWN_LICENCE}


@pytest.mark.parametrize("text", ["{", "[1]", "null", "[" * 100_000, '{"fid": NaN}', 3, "1" * 5000])
def test_texts_that_are_not_json_objects_are_left_out(text: Any) -> None:
    assert of_texts({"licence": "MIT", "pruning": text}) == {"licence": "MIT"}
    assert story_in({"provenance": text}) == {}
