"""Running a bfloat16 file where convolutions of that type do not exist: ONNX Runtime on a CPU.

A bfloat16 convolution multiplies bfloat16 numbers, sums in float32, and rounds the sum once. The products are exact in
float32, so a float32 convolution between two casts computes the very same, up to the order of summation. The file that
is shipped stays as it is; this is for looking at what it computes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def widened(source: str | bytes) -> bytes | None:
    """The model of a file (or in bytes) with :func:`widen_convolutions`; None when it has no bfloat16 convolution."""
    import onnx

    model = onnx.load(source) if isinstance(source, str) else onnx.load_from_string(source)
    return model.SerializeToString() if widen_convolutions(model) else None


def widen_convolutions(model: onnx.ModelProto) -> int:
    """Make every bfloat16 convolution of ``model`` a float32 one between casts, in place; return their number."""
    import onnx

    narrow, wide = onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT
    weights = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == narrow}
    nodes: list[onnx.NodeProto] = []
    count = 0
    for node in model.graph.node:
        if node.op_type not in ("Conv", "ConvTranspose") or node.input[1] not in weights:
            nodes.append(node)
            continue
        count += 1
        weight = weights[node.input[1]]
        values = onnx.numpy_helper.to_array(weight).astype("float32")
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        conv = onnx.NodeProto()
        conv.CopyFrom(node)
        conv.input[0], conv.output[0] = f"{node.name}.wide", f"{node.name}.exact"
        before = onnx.helper.make_node("Cast", [node.input[0]], [conv.input[0]], name=f"{node.name}.wide", to=wide)
        after = onnx.helper.make_node("Cast", [conv.output[0]], [node.output[0]], name=f"{node.name}.exact", to=narrow)
        nodes += [before, conv, after]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(kept)
    return count
