from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from dcp_deploy.export import export_onnx, latents_of
from dcp_deploy.export.graph.stored import layer_of, layer_storage, restored, storable, store
from dcp_deploy.export.tensorrt.engine import weight_types

from ..conftest import random_generator

Z, PSI = latents_of(range(4), 12), np.float32([0.5, 0.7, 1.0, 1.0])


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    network = random_generator((16, 16, 16, 12, 16, 8))
    return onnx.load(export_onnx(network, tmp_path_factory.mktemp("onnx") / "exact.onnx", image="float"))


@pytest.fixture(scope="module")
def small(exact: onnx.ModelProto) -> onnx.ModelProto:
    return stored(exact)


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(model.SerializeToString())


def stored(model: onnx.ModelProto, *without: str) -> onnx.ModelProto:
    made = copied(model)
    store(made, [layer for layer in storable(model) if layer not in without])
    return made


def tensors(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def draw(model: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["image"], {"z": Z, "psi": PSI})[0]


def test_images_hardly_change(exact: onnx.ModelProto, small: onnx.ModelProto) -> None:
    onnx.checker.check_model(small, full_check=True)
    before, after = draw(exact), draw(small)
    assert 0 < np.square(after - before).mean() < 1e-4 * np.square(before).mean()


def test_every_channel_has_its_own_steps(exact: onnx.ModelProto, small: onnx.ModelProto) -> None:
    before, after = tensors(exact), tensors(small)
    for name, axis in (("synthesis.b8.conv0.weight", 1), ("synthesis.b4.conv1.weight", 0), ("styles.affine.weight", 0)):
        integers, steps = after[f"{name}.int8"], after[f"{name}.scale"]
        assert integers.dtype == np.int8
        others = tuple(dim for dim in range(integers.ndim) if dim != axis)
        assert (np.abs(integers).max(axis=others) == 127).all()
        assert (np.abs(integers * steps - before[name]) <= steps * 0.501).all()


def test_runtimes_restore_the_weights_once(small: onnx.ModelProto, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3  # it warns that the optimised file is for this machine only
    onnxruntime.InferenceSession(small.SerializeToString(), options, providers=["CPUExecutionProvider"])
    left = {node.name for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    made = {node.name for node in small.graph.node if node.input[0].endswith((".int8", ".float16", ".wide"))}
    assert len(made) >= 6
    assert not made & left


def test_restored_has_the_same_images_and_float32_constants(exact: onnx.ModelProto, small: onnx.ModelProto) -> None:
    undone = copied(small)
    assert restored(undone)
    assert np.array_equal(draw(undone), draw(small))
    assert {node.name for node in undone.graph.node} == {node.name for node in exact.graph.node}
    kinds = {name: (array.dtype, array.shape) for name, array in tensors(undone).items()}
    assert kinds == {name: (array.dtype, array.shape) for name, array in tensors(exact).items()}
    assert not restored(undone)


def test_engines_compute_these_weights_in_float32(exact: onnx.ModelProto, small: onnx.ModelProto) -> None:
    assert weight_types(small) == weight_types(exact) == "fp32"


def test_integers_can_be_given(exact: onnx.ModelProto) -> None:
    name = "synthesis.b8.conv1.weight"
    given = np.full(tensors(exact)[name].shape, 5, np.int8)
    model = copied(exact)
    store(model, ["b8.conv1"], {name: given})
    assert np.array_equal(tensors(model)[f"{name}.int8"], given)
    assert sum(array.dtype == np.int8 for array in tensors(model).values()) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_what_the_small_type_cannot_hold_stays_float32(exact: onnx.ModelProto, value: float) -> None:
    model = copied(exact)
    for tensor in model.graph.initializer:
        if tensor.name in ("synthesis.b8.conv1.weight", "mapping.fc0.weight"):
            values = np.tile(numpy_helper.to_array(tensor), (8, 8) if tensor.name.startswith("mapping") else 1)
            values.flat[3] = value
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    found = [name for names in storable(model).values() for name in names]
    assert "mapping.fc0.weight" not in found
    assert ("synthesis.b8.conv1.weight" in found) == np.isfinite(value)


def test_a_layer_left_out_stays_as_it_is(exact: onnx.ModelProto) -> None:
    kept = tensors(stored(exact, "b8.conv0"))["synthesis.b8.conv0.weight"]
    assert np.array_equal(kept, tensors(exact)["synthesis.b8.conv0.weight"])


def test_storage_counts_every_byte_by_layer_and_type(small: onnx.ModelProto) -> None:
    rows = layer_storage(small)
    assert sum(row.bytes for row in rows) == sum(array.nbytes for array in tensors(small).values())
    assert [row.bytes for row in rows] == sorted((row.bytes for row in rows), reverse=True)
    by_name = {row.layer: row.types for row in rows}
    assert by_name["b8.conv0"]["int8"] == 16 * 16 * 9
    assert by_name["b8.conv0"]["float32"] == 4 * (16 * 16 + 16 + 64 + 16 + 1)  # energy, bias, noise, steps, epsilon
    assert {"mapping", "styles", "const", "b4.torgb", "b16.conv1"} <= by_name.keys()


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("synthesis.b8.conv1/Conv.input.scale", "b8.conv1"),
        ("synthesis.b8.torgb.weight", "b8.torgb"),
        ("synthesis.L3.conv.weight", "L3"),
        ("synthesis.const", "const"),
        ("styles.slot3.weight.int8", "styles"),
        ("mapping.embed.weight", "mapping"),
        ("Split.input1", "other"),
        ("", "other"),
    ],
)
def test_layers_of_constants(name: str, layer: str) -> None:
    assert layer_of(name) == layer
