"""Casts around bfloat16 convolutions, and convolutions in bfloat16 in their place."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from dcp_deploy.export.graph.bfloat16 import CONVOLUTIONS, narrowed, widen

BRAIN = onnx.TensorProto.BFLOAT16


@pytest.fixture
def model() -> onnx.ModelProto:
    """Cast to bfloat16, a convolution and a transposed one, cast back."""
    text = """<ir_version: 8, opset_import: ["": 22]> g (float[b, 2, 4, 4] x) => (float[b, 2, 6, 6] y) {
        h = Cast <to = 16> (x)
        a = Conv <pads = [1, 1, 1, 1]> (h, w)
        c = ConvTranspose (a, v)
        y = Cast <to = 1> (c)
    }"""
    parsed = onnx.parser.parse_model(text)
    for number, node in enumerate(parsed.graph.node):
        node.name = f"node{number}"
    values = np.random.default_rng(0).standard_normal((2, 2, 3, 3)).astype(np.float32)
    for name in "wv":
        tensor = onnx.helper.make_tensor(name, BRAIN, values.shape, values.ravel())
        parsed.graph.initializer.append(tensor)
    return parsed


def test_a_graph_with_casts_is_valid_and_has_no_arithmetic_in_bfloat16(model: onnx.ModelProto) -> None:
    widen(model)
    model.opset_import[0].version = 17  # whose convolutions take no bfloat16
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node].count("Cast") == 8
    assert {tensor.data_type for tensor in model.graph.initializer} == {BRAIN}  # the weights stay small


def test_the_casts_are_taken_out_again(model: onnx.ModelProto) -> None:
    before = model.SerializeToString(deterministic=True)
    widen(model)
    assert narrowed(model)
    assert model.SerializeToString(deterministic=True) == before
    assert not narrowed(model)


def test_a_cast_that_another_node_reads_stays(model: onnx.ModelProto) -> None:
    widen(model)
    shared = next(node.input[0] for node in model.graph.node if node.op_type == "ConvTranspose")
    model.graph.node.append(onnx.helper.make_node("Relu", [shared], ["z"], name="other"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["b", 2, 4, 4]))
    assert narrowed(model)
    onnx.checker.check_model(model, full_check=True)


def test_only_the_wanted_kinds_are_narrowed(model: onnx.ModelProto) -> None:
    widen(model)
    assert narrowed(model, ("Conv",))
    reads = {node.op_type: node.input[1] for node in model.graph.node if node.op_type in CONVOLUTIONS}
    assert reads == {"Conv": "w", "ConvTranspose": "v.wide"}
    onnx.checker.check_model(model, full_check=True)
