"""Files without functions: standard operators only, the same images, and accepted by onnx's own tools."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import version_converter

from dcp_deploy.export import classes_of, latents_of, load_runner
from dcp_deploy.export.graph.inlining import fix_batch, inlined
from dcp_deploy.export.parity.layer_values import layer_values

FILES = ("float_onnx", "uint8_onnx", "translating_onnx", "rotating_onnx")
FOR_FUNCTIONS = {"CastLike", "Identity", "Constant"}  # what bodies need and a plain graph does not


@pytest.fixture(params=FILES)
def path(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def plain(path: Path) -> onnx.ModelProto:
    return inlined(onnx.load(path))


def images(model: onnx.ModelProto, rows: int = 3) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    sizes = {value.name: value.shape for value in session.get_inputs()}
    c = classes_of(range(rows), sizes["c"][1] if "c" in sizes else 0)
    feeds = {"z": latents_of(range(rows), sizes["z"][1]), "psi": np.full(rows, 0.7, np.float32)}
    feeds |= {} if c is None else {"c": c}
    fixed = sizes["z"][0]
    step = fixed if isinstance(fixed, int) else rows
    calls = [
        session.run(["image"], {name: values[start : start + step] for name, values in feeds.items()})[0]
        for start in range(0, rows, step)
    ]
    return np.concatenate(calls)


def test_the_images_are_the_same_bit_for_bit(path: Path, plain: onnx.ModelProto) -> None:
    assert np.array_equal(images(plain), images(onnx.load(path)))


def test_only_standard_operators_are_left(plain: onnx.ModelProto) -> None:
    assert not plain.functions and [entry.domain for entry in plain.opset_import] == [""]
    assert {node.domain for node in plain.graph.node} == {""}
    assert not FOR_FUNCTIONS & {node.op_type for node in plain.graph.node}
    names = [node.name for node in plain.graph.node]
    assert len(set(names)) == len(names) and not any("__" in name for name in names)
    onnx.checker.check_model(plain, full_check=True)


def test_a_fixed_batch_leaves_no_arithmetic_of_shapes(path: Path) -> None:
    model = onnx.load(path)
    fix_batch(model, 1)
    static = inlined(model)
    inferred = onnx.shape_inference.infer_shapes(static, strict_mode=True, data_prop=True)
    assert "Shape" not in {node.op_type for node in static.graph.node}
    for value in inferred.graph.value_info:
        assert all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim), value.name
    assert np.array_equal(images(static), images(onnx.load(path)))


@pytest.mark.parametrize("opset", [17, 19, 20, 21, 22])
def test_the_version_converter_of_onnx_takes_it(opset: int, float_onnx: Path) -> None:
    plain = inlined(onnx.load(float_onnx))
    converted = version_converter.convert_version(plain, opset)
    onnx.checker.check_model(converted, full_check=True)
    assert np.array_equal(images(converted), images(plain))


def test_its_layers_can_be_compared(float_onnx: Path, tmp_path: Path) -> None:
    whole, plain = load_runner(float_onnx), tmp_path / "plain.onnx"
    onnx.save(inlined(onnx.load(float_onnx)), plain)
    inputs = latents_of([0], 24), np.ones(1, np.float32), None
    expected, found = layer_values(whole, *inputs), layer_values(load_runner(plain), *inputs)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].styled == value.styled, name
        assert np.array_equal(found[name].values, value.values), name
