from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from dcp_deploy.errors import InputError
from dcp_deploy.export import classes_of, latents_of, load_runner
from dcp_deploy.export.bundle import sizing
from dcp_deploy.export.bundle.triton import (
    Served,
    Tensor,
    TensorRTPlan,
    config_pbtxt,
    interface,
    picture_pbtxt,
)
from dcp_deploy.export.bundle.writer import write_bundle
from dcp_deploy.export.graph.inlining import fix_batch, inlined
from dcp_deploy.export.integrity import check_bundle
from dcp_deploy.shipping.contents import contents_of

CONDITIONAL = Served(
    "generator",
    (Tensor("z", "TYPE_FP32", (512,)), Tensor("psi", "TYPE_FP32", ()), Tensor("c", "TYPE_FP32", (3,))),
    Tensor("image", "TYPE_UINT8", (256, 256, 3)),
    max_batch=16,
    instances=2,
    threads=4,
    delay_us=700,
    plans={
        "8.9": TensorRTPlan("model_sm89.plan", best_batch=8),
        "10.0": TensorRTPlan("model_sm100.plan", best_batch=32),
    },
)


def parse(text: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_triton_can_parse_every_configuration_of_a_bundle(bundle: Path) -> None:
    files = sorted(bundle.glob("models/**/*.pbtxt"))
    assert [path.relative_to(bundle / "models" / "generator").as_posix() for path in files] == [
        "config.pbtxt", "configs/python.pbtxt",
    ]  # fmt: skip
    for path in files:
        config = parse(path.read_text())
        assert config.name == path.relative_to(bundle / "models").parts[0]
        assert (path.parents[len(path.relative_to(bundle / "models").parts) - 2] / "1").is_dir()


def test_pictures_are_configured_in_a_repository_of_their_own(bundle: Path) -> None:
    assert [path.relative_to(bundle).as_posix() for path in bundle.glob("pictures/**/*") if path.is_file()] == [
        "pictures/picture/config.pbtxt", "pictures/picture/1/model.py",
    ]  # fmt: skip
    config = parse((bundle / "pictures" / "picture" / "config.pbtxt").read_text())
    assert (config.name, config.backend, config.max_batch_size) == ("picture", "python", 8)
    assert [(entry.name, entry.optional) for entry in config.input] == [
        ("seed", False), ("psi", True), ("class", True), ("format", True),
    ]  # fmt: skip
    assert json.loads(config.parameters["generator"].string_value) == {
        "z_dim": 24, "c_dim": 3, "max_batch": 8, "directions": [],
    }  # fmt: skip


def test_picture_takes_edits_only_with_directions_and_a_class_only_if_conditional() -> None:
    config = parse(picture_pbtxt(512, 0, 4, 100, ('smile "wide"', "age")))
    assert [entry.name for entry in config.input] == ["seed", "psi", "format", "edits"]
    assert json.loads(config.parameters["generator"].string_value)["directions"] == ['smile "wide"', "age"]


@pytest.mark.parametrize("variant", ["onnxruntime", "python", "tensorrt"])
def test_inputs_and_outputs_leave_the_batch_to_triton(variant: str) -> None:
    config = parse(config_pbtxt(CONDITIONAL, variant))  # type: ignore[arg-type]
    assert (config.backend, config.max_batch_size) == (variant, 16)
    assert [(entry.name, list(entry.dims)) for entry in config.input] == [("z", [512]), ("psi", [1]), ("c", [3])]
    assert config.input[1].HasField("reshape") and not config.input[1].reshape.shape
    assert not config.input[0].HasField("reshape")
    assert [(entry.name, list(entry.dims)) for entry in config.output] == [("image", [256, 256, 3])]
    assert config.output[0].data_type == model_config_pb2.TYPE_UINT8
    assert config.dynamic_batching.max_queue_delay_microseconds == 700
    assert [warmup.batch_size for warmup in config.model_warmup] == [1, 16]
    assert set(config.model_warmup[0].inputs) == {"z", "psi", "c"}


def test_the_onnx_variant_uses_the_gpu_if_there_is_one() -> None:
    config = parse(config_pbtxt(CONDITIONAL, "onnxruntime"))
    assert config.default_model_filename == "model.onnx"
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_AUTO


def test_the_python_variant_runs_the_measured_number_of_copies() -> None:
    config = parse(config_pbtxt(CONDITIONAL, "python"))
    assert config.default_model_filename == "model.py"
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_CPU
    assert config.instance_group[0].count == 2
    assert config.parameters["threads"].string_value == "4"


def test_the_tensorrt_variant_selects_plans_and_captures_graphs() -> None:
    config = parse(config_pbtxt(CONDITIONAL, "tensorrt"))
    assert dict(config.cc_model_filenames) == {"8.9": "model_sm89.plan", "10.0": "model_sm100.plan"}
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    assert list(config.dynamic_batching.preferred_batch_size) == [8, 16]
    cuda = config.optimization.cuda
    assert cuda.graphs and cuda.output_copy_stream
    assert [spec.batch_size for spec in cuda.graph_spec] == [1, 8, 16]
    assert list(cuda.graph_spec[0].input["z"].dim) == [512]


def test_the_interface_is_read_from_the_file(uint8_onnx: Path) -> None:
    inputs, output = interface(uint8_onnx)
    assert {tensor.name: len(tensor.dims) for tensor in inputs} == {"z": 1, "psi": 0, "c": 1}
    assert output == Tensor("image", "TYPE_UINT8", (32, 32, 3))


def test_a_file_for_one_image_is_served_without_batching_and_asked_as_before() -> None:
    config = parse(config_pbtxt(replace(CONDITIONAL, max_batch=1, fixed=True), "onnxruntime"))
    assert config.max_batch_size == 0 and not config.HasField("dynamic_batching")
    assert [(entry.name, list(entry.dims)) for entry in config.input] == [
        ("z", [1, 512]),
        ("psi", [1, 1]),
        ("c", [1, 3]),
    ]
    assert list(config.input[1].reshape.shape) == [1]
    assert list(config.output[0].dims) == [1, 256, 256, 3]
    assert parse(config_pbtxt(replace(CONDITIONAL, max_batch=1, fixed=True), "python")).max_batch_size == 1


def test_a_file_with_another_fixed_batch_is_refused(uint8_onnx: Path, tmp_path: Path) -> None:
    model = onnx.load(uint8_onnx)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, tmp_path / "fixed.onnx")
    with pytest.raises(InputError, match="takes batches of 4 only"):
        interface(tmp_path / "fixed.onnx")


def test_a_file_for_one_image_makes_a_bundle_that_takes_one(
    uint8_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizing, "SECONDS", 0.05)
    model = onnx.load(uint8_onnx)
    fix_batch(model, 1)
    onnx.save(inlined(model), tmp_path / "one.onnx")
    manifest = write_bundle(contents_of(tmp_path / "one.onnx"), tmp_path / "bundle")
    served = manifest["models"]["generator"]
    assert served["max_batch"] == 1 and served["oldest"] == {"onnxruntime": "1.13", "triton": "23.04"}
    config = parse((tmp_path / "bundle" / "models" / "generator" / "config.pbtxt").read_text())
    assert config.max_batch_size == 0
    readme = (tmp_path / "bundle" / "README.md").read_text()
    assert "B is 1. The" in readme and "Triton 23.04 or later" in readme
    z, c = latents_of(range(2), 24), classes_of(range(2), 3)
    assert len(load_runner(tmp_path / "bundle")(z=z, psi=0.7, c=c)) == 2


def test_a_file_too_new_for_every_documented_triton_makes_a_bundle(
    uint8_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizing, "SECONDS", 0.05)
    model = onnx.load(uint8_onnx)
    model.ir_version = 14
    onnx.save(model, tmp_path / "new.onnx")
    write_bundle(contents_of(tmp_path / "new.onnx"), tmp_path / "bundle")
    served = check_bundle(tmp_path / "bundle")["models"]["generator"]
    assert served["oldest"] == {"onnxruntime": "1.32", "triton": None}
    readme = (tmp_path / "bundle" / "README.md").read_text()
    assert "| (none) | ONNX Runtime backend with ONNX Runtime 1.32 or later | the GPU" in readme
