"""Operations and bytes of graphs with known counts."""

from __future__ import annotations

import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, save_model

from dcp_deploy.benchmarks.candidates.graph_work import generator_work, onnx_work
from dcp_deploy.generators import Generator, GeneratorConfig, count_macs


def tiny(**settings):
    torch.manual_seed(0)
    return Generator(
        GeneratorConfig(resolution=8, z_dim=6, w_dim=6, mapping_layers=1, widths=(3,) * 4, **settings)
    ).eval()


def saved(path, nodes, inputs, outputs, weights):
    """Save a graph of float32 values; "B" is the batch."""
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in some.items()]
            for some in (inputs, outputs)]  # fmt: skip
    held = [numpy_helper.from_array(torch.ones(shape).numpy(), name) for name, shape in weights.items()]
    graph = helper.make_graph([helper.make_node(*node[:3], **node[3]) for node in nodes], "g", *ends, held)
    save_model(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)]), path)
    return path


@pytest.mark.parametrize(
    ("node", "x", "w", "y", "macs"),
    [
        (("Conv", {}), ["B", 4, 10, 10], [6, 4, 3, 3], ["B", 6, 8, 8], 6 * 8 * 8 * 4 * 9),
        (("Conv", {"group": 4}), ["B", 4, 10, 10], [4, 1, 3, 3], ["B", 4, 8, 8], 4 * 8 * 8 * 9),
        (("ConvTranspose", {"strides": [2, 2]}), ["B", 4, 8, 8], [4, 6, 3, 3], ["B", 6, 17, 17], 4 * 8 * 8 * 6 * 9),
        (("MatMul", {}), ["B", 5], [5, 7], ["B", 7], 5 * 7),
        (("Gemm", {"transB": 1}), ["B", 5], [7, 5], ["B", 7], 5 * 7),
    ],
)
def test_two_operations_for_each_multiplication(tmp_path, node, x, w, y, macs):
    kind, attributes = node
    path = saved(tmp_path / "g.onnx", [(kind, ["x", "w"], ["y"], attributes)], {"x": x}, {"y": y}, {"w": w})
    assert onnx_work(path, 3).operations == 3 * 2 * macs


def test_bytes_count_each_tensor_once_and_traffic_every_pass(tmp_path):
    nodes = [("MatMul", ["x", "w"], ["h"], {}), ("Relu", ["h"], ["y"], {})]
    path = saved(tmp_path / "g.onnx", nodes, {"x": ["B", 5]}, {"y": ["B", 7]}, {"w": [5, 7]})
    work = onnx_work(path, 2)
    assert work.bytes == 4 * (5 * 7 + 2 * 5 + 2 * 7)
    assert work.traffic_bytes == 4 * ((2 * 5 + 5 * 7 + 2 * 7) + (2 * 7 + 2 * 7))


def test_products_of_integers_are_counted_apart(tmp_path):
    nodes = [
        ("QuantizeLinear", ["x", "step"], ["q"], {}),
        ("DequantizeLinear", ["q", "step"], ["whole"], {}),
        ("QuantizeLinear", ["w", "step"], ["p"], {}),
        ("DequantizeLinear", ["p", "step"], ["weight"], {}),
        ("MatMul", ["whole", "weight"], ["h"], {}),
        ("MatMul", ["h", "weight"], ["y"], {}),  # h is not of integers
    ]
    weights = {"w": [5, 5], "step": []}
    work = onnx_work(saved(tmp_path / "g.onnx", nodes, {"x": ["B", 5]}, {"y": ["B", 5]}, weights), 3)
    assert (work.operations, work.int8_operations) == (2 * 2 * 3 * 25, 2 * 3 * 25)


def test_a_graph_with_an_unknown_shape_has_no_work(tmp_path):
    nodes = [("NonZero", ["x"], ["n"], {}), ("Cast", ["n"], ["y"], {"to": TensorProto.FLOAT})]
    assert onnx_work(saved(tmp_path / "g.onnx", nodes, {"x": ["B", 5]}, {"y": [2, "N"]}, {}), 2) is None


def test_torch_and_the_exported_file_agree(small_generator, exported):
    """Both compute the same convolutions; the file fuses only what lies between them."""
    for batch in (1, 3):
        network, file = generator_work(small_generator.config, batch), onnx_work(exported, batch)
        assert file.operations == network.operations
        assert file.traffic_bytes < network.traffic_bytes


def test_a_network_has_more_operations_than_its_macs():
    """The MACs of the papers leave out the filters."""
    for generator in (tiny(), tiny(c_dim=2)):
        work, counted = generator_work(generator.config, 2), 2 * 2 * count_macs(generator)
        assert counted <= work.operations < 1.5 * counted
