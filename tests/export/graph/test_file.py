"""Writing a model: weights inside or beside the file, and only operators that TensorRT's parser supports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from dcp_deploy.export.graph import file
from dcp_deploy.export.graph.file import operators_beyond_tensorrt, write_model

WEIGHTS = {name: np.random.default_rng(i).standard_normal((32, 32)).astype(np.float32) for i, name in enumerate("ab")}


def model(operator: str = "LeakyRelu") -> onnx.ModelProto:
    """y = operator(x a) b"""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["xa"]),
        helper.make_node(operator, ["xa"], ["h"]),
        helper.make_node("MatMul", ["h", "b"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, ["n", 32])],
        [helper.make_tensor_value_info("y", kind, ["n", 32])],
        [onnx.numpy_helper.from_array(value, name) for name, value in WEIGHTS.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(path: Path) -> np.ndarray:
    return onnxruntime.InferenceSession(path).run(None, {"x": np.eye(32, dtype=np.float32)})[0]


def test_small_weights_lie_inside(tmp_path: Path) -> None:
    write_model(model(), tmp_path / "m.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    expected = np.where(WEIGHTS["a"] > 0, 1, 0.01) * WEIGHTS["a"] @ WEIGHTS["b"]
    assert np.abs(run(tmp_path / "m.onnx") - expected).max() < 1e-4  # float32 sums of 32 products, magnitude 20


def test_weights_above_the_limit_lie_beside_the_file_and_draw_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(model(), tmp_path / "inside.onnx")
    monkeypatch.setattr(file, "MOST_INSIDE", 4000)
    write_model(model(), tmp_path / "m.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"inside.onnx", "m.onnx", "m.onnx.data"}
    assert (tmp_path / "m.onnx").stat().st_size < 1000
    assert (tmp_path / "m.onnx.data").stat().st_size == 4096 * 2
    assert np.array_equal(run(tmp_path / "m.onnx"), run(tmp_path / "inside.onnx"))


def test_weights_that_come_back_inside_leave_nothing_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(file, "MOST_INSIDE", 4000)
        write_model(model(), tmp_path / "m.onnx")
    write_model(model(), tmp_path / "m.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_an_operator_beyond_tensorrt_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Hardmax"):
        write_model(model("Hardmax"), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_bodies_of_functions_are_looked_into() -> None:
    text = '<domain: "ours", opset_import: ["": 18]> Ours (x) => (y) { h = Relu (x) y = Det (h) }'
    with_function = model()
    with_function.functions.append(onnx.parser.parse_function(text))
    with_function.graph.node[1].op_type, with_function.graph.node[1].domain = "Ours", "ours"
    assert operators_beyond_tensorrt(with_function) == ["Det"]
    with_function.graph.node[1].domain = "theirs"
    assert operators_beyond_tensorrt(with_function) == ["Det", "theirs.Ours"]


def test_a_model_that_is_not_valid_is_not_written(tmp_path: Path) -> None:
    broken = model()
    broken.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 31
    with pytest.raises(Exception, match="31"):  # the checker's own exception
        write_model(broken, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
