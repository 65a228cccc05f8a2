"""The candidates that a set of files allows, without opening any."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dcp_deploy.benchmarks.candidates.candidate import Candidate
from dcp_deploy.benchmarks.candidates.matrix import BACKENDS, Spec, open_matrix, plan_matrix
from dcp_deploy.errors import CorruptFileError, InputError, MissingCapabilityError, UsageError

from ...engine_facts import ENGINE


@pytest.fixture
def files(tmp_path):
    """A file of every kind, recognised by its first bytes."""
    contents = {"t.safetensors": b"\x00" * 16, "s.safetensors": b"\x00" * 16, "s.onnx": b"\x08\x0a" * 8}
    made = {name: tmp_path / name for name in contents}
    for name, content in contents.items():
        made[name].write_bytes(content)
    engine = tmp_path / "s.engine"
    engine.write_bytes(b"ptrt" + b"\x00" * 12)
    engine.with_suffix(".json").write_text(json.dumps(ENGINE))
    return {**made, "s.engine": engine}


def opened(spec: Spec) -> Candidate:
    precision = "fp16" if "half" in spec.path else "fp32"
    return Candidate(lambda: None, spec.model, spec.backend, precision=precision)


def test_each_file_runs_in_its_natural_backend(files):
    specs, skipped = plan_matrix({"teacher": [files["t.safetensors"]], "student": [files["s.onnx"], files["s.engine"]]})
    assert [(spec.model, spec.backend) for spec in specs] == [
        ("teacher", "torch"), ("student", "onnxruntime"), ("student", "tensorrt-rtx"),
    ]  # fmt: skip
    assert skipped == []


def test_all_plans_every_backend_and_names_the_missing_files(files):
    specs, skipped = plan_matrix({"student": [files["s.safetensors"], files["s.onnx"]]}, backends="all")
    assert {spec.backend for spec in specs} == {
        name for name, b in BACKENDS.items() if b.takes in ("checkpoint", "onnx")
    }
    assert {one.name: one.reason for one in skipped}["student, TensorRT"] == (
        "no tensorrt engine of the student was given (made by dcp-deploy engine)"
    )
    assert len(specs) + len(skipped) == len(BACKENDS) - 1  # a bundle has the same files, so it is timed on request only


def test_an_engine_runs_in_its_own_flavour_only(files):
    specs, skipped = plan_matrix({"student": [files["s.engine"]]}, backends="tensorrt,tensorrt-rtx,tensorrt-rtx-graph")
    assert [spec.backend for spec in specs] == ["tensorrt-rtx", "tensorrt-rtx-graph"]
    assert [one.name for one in skipped] == ["student, TensorRT"]


def test_candidates_that_the_machine_cannot_run_are_skipped_with_the_reason(files):
    def open_one(spec):
        if spec.backend.endswith("cuda"):
            raise MissingCapabilityError("no GPU", "buy one")
        return opened(spec)

    specs, _ = plan_matrix({"student": [files["s.onnx"]]}, backends="onnxruntime,onnxruntime-cuda")
    candidates, skipped = open_matrix(specs, open_one, tolerant=True)
    assert list(candidates) == ["student, ONNX Runtime"]
    assert [(one.name, one.reason) for one in skipped] == [("student, ONNX Runtime on GPU", "no GPU")]
    with pytest.raises(MissingCapabilityError, match="no GPU"):
        open_matrix(specs, open_one, tolerant=False)
    with pytest.raises(MissingCapabilityError, match="no GPU"):
        open_matrix(specs[1:], open_one, tolerant=True)  # nothing is left to time


def test_a_bad_file_is_an_error_even_when_tolerant(files):
    def open_one(spec):
        raise CorruptFileError("bad")

    specs, _ = plan_matrix({"student": [files["s.onnx"]]})
    with pytest.raises(InputError, match="bad"):
        open_matrix(specs, open_one, tolerant=True)


def test_names_of_candidates_are_unique(tmp_path):
    paths = [tmp_path / name for name in ("s.onnx", "half.onnx", "other.onnx", "a/s.onnx")]
    specs = [Spec("student", str(path), "onnxruntime") for path in paths]
    assert list(open_matrix(specs, opened, tolerant=False)[0]) == [
        f"student, ONNX Runtime, s.onnx ({paths[0]})",
        "student, ONNX Runtime, fp16",
        "student, ONNX Runtime, other.onnx",
        f"student, ONNX Runtime, s.onnx ({paths[3]})",
    ]


def test_every_batch_has_its_own_baseline(files):
    both = {"teacher": [files["t.safetensors"]], "student": [files["s.safetensors"]]}
    candidates, _ = open_matrix(plan_matrix(both, batches=(1, 8))[0], opened, tolerant=False)
    assert {name: (one.batch, one.baseline) for name, one in candidates.items()} == {
        "teacher, torch eager, batch 1": (1, "teacher, torch eager, batch 1"),
        "student, torch eager, batch 1": (1, "teacher, torch eager, batch 1"),
        "teacher, torch eager, batch 8": (8, "teacher, torch eager, batch 8"),
        "student, torch eager, batch 8": (8, "teacher, torch eager, batch 8"),
    }


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"backends": "torch,tpu"}, "unknown backend 'tpu'"),
        ({"batches": (0,)}, "batch is 0"),
        ({"batches": ()}, "batch is 0"),
    ],
)
def test_wrong_settings_are_refused(files, settings, words):
    with pytest.raises(UsageError, match=words):
        plan_matrix({"student": [files["s.onnx"]]}, **settings)


def test_a_spec_survives_json():
    spec = Spec("student", str(Path("a.onnx")), "onnxruntime", threads=2, batch=4, seed=7)
    assert Spec(**json.loads(json.dumps(spec.to_dict()))) == spec
