"""Run a bfloat16 file in ONNX Runtime on a CPU, which has no bfloat16 convolutions.

A bfloat16 convolution multiplies bfloat16 numbers, sums in float32, and rounds the sum once. The products are exact in
float32, so a float32 convolution between two casts computes the same, up to the order of summation. The exported file
stays unchanged; the model is converted in memory to check what it computes.
"""

from __future__ import annotations


def widened(source: str | bytes) -> bytes | None:
    """Return the model of a file, or in bytes, with float32 convolutions between casts in place of bfloat16 ones.

    Returns None if it has no such convolution.
    """
    import onnx

    model = onnx.load(source) if isinstance(source, str) else onnx.load_from_string(source)
    narrow, wide = onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT
    weights = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == narrow}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type not in ("Conv", "ConvTranspose") or node.input[1] not in weights:
            nodes.append(node)
            continue
        weight = weights[node.input[1]]
        values = onnx.numpy_helper.to_array(weight).astype("float32")
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        conv = onnx.NodeProto()
        conv.CopyFrom(node)
        conv.input[0], conv.output[0] = f"{node.name}.wide", f"{node.name}.exact"
        before = onnx.helper.make_node("Cast", [node.input[0]], [conv.input[0]], name=f"{node.name}.wide", to=wide)
        after = onnx.helper.make_node("Cast", [conv.output[0]], [node.output[0]], name=f"{node.name}.exact", to=narrow)
        nodes += [before, conv, after]
    if len(nodes) == len(model.graph.node):
        return None
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(kept)
    wider: bytes = model.SerializeToString()
    return wider
