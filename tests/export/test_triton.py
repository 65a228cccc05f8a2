from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from dcp_deploy.errors import InputError
from dcp_deploy.export.triton import Served, Tensor, config_pbtxt, interface

CONDITIONAL = Served(
    "generator",
    (Tensor("z", "TYPE_FP32", (512,)), Tensor("psi", "TYPE_FP32", ()), Tensor("c", "TYPE_FP32", (3,))),
    Tensor("image", "TYPE_UINT8", (256, 256, 3)),
    max_batch=16,
    instances=2,
    threads=4,
    delay_us=700,
    plans={"8.9": "model_sm89.plan", "10.0": "model_sm100.plan"},
    best_batch=8,
)


def parse(text: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_every_configuration_of_a_bundle_is_triton_s_own_format(bundle: Path) -> None:
    files = sorted(bundle.rglob("*.pbtxt"))
    assert [path.relative_to(bundle / "models" / "generator").as_posix() for path in files] == [
        "config.pbtxt", "configs/python.pbtxt",
    ]  # fmt: skip
    for path in files:
        config = parse(path.read_text())
        assert config.name == path.relative_to(bundle / "models").parts[0]
        assert (path.parents[len(path.relative_to(bundle / "models").parts) - 2] / "1").is_dir()


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


def test_the_onnx_variant_takes_the_gpu_when_there_is_one() -> None:
    config = parse(config_pbtxt(CONDITIONAL, "onnxruntime"))
    assert config.default_model_filename == "model.onnx"
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_AUTO


def test_the_python_variant_runs_the_measured_number_of_copies() -> None:
    config = parse(config_pbtxt(CONDITIONAL, "python"))
    assert config.default_model_filename == "model.py"
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_CPU
    assert config.instance_group[0].count == 2
    assert config.parameters["threads"].string_value == "4"


def test_the_tensorrt_variant_picks_plans_and_captures_graphs() -> None:
    config = parse(config_pbtxt(CONDITIONAL, "tensorrt"))
    assert dict(config.cc_model_filenames) == CONDITIONAL.plans
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


def test_a_file_with_a_fixed_batch_is_refused(uint8_onnx: Path, tmp_path: Path) -> None:
    model = onnx.load(uint8_onnx)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, tmp_path / "fixed.onnx")
    with pytest.raises(InputError, match="dynamic batch"):
        interface(tmp_path / "fixed.onnx")
