"""bfloat16 files: convolutions in float32 between casts for every runtime, or in bfloat16 for those that have them.

ONNX Runtime has no arithmetic in bfloat16 on a CPU, only Cast, Sign and operators that move data (``python -m
tests.runtimes --limits`` tries each; its own survey is in issue 28768). A bfloat16 convolution multiplies bfloat16
numbers, sums in float32, and rounds the sum once. The products are exact in float32, so a float32 convolution between
two casts computes the same, up to the order of summation. Files are stored like that: weights in bfloat16, and features
rounded to it. TensorRT and OpenVINO have the convolutions, and get them in place of the casts (:func:`narrowed`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

CONVOLUTIONS = ("Conv", "ConvTranspose")


def widen(model: onnx.ModelProto) -> None:
    """Put every convolution with bfloat16 weights between casts, and compute it in float32; in place."""
    import onnx

    narrow, wide = onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT
    weights = {tensor.name for tensor in model.graph.initializer if tensor.data_type == narrow}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type not in CONVOLUTIONS or node.input[1] not in weights:
            nodes.append(node)
            continue
        conv = onnx.NodeProto()
        conv.CopyFrom(node)
        conv.input[:2] = [f"{node.name}.features", f"{node.input[1]}.wide"]
        conv.output[0] = f"{node.name}.exact"
        nodes += [
            _cast(node.input[0], conv.input[0], wide),
            _cast(node.input[1], conv.input[1], wide),
            conv,
            _cast(conv.output[0], node.output[0], narrow, f"{node.name}.rounded"),
        ]
    _replace(model, nodes)


def narrowed(model: onnx.ModelProto, kinds: tuple[str, ...] = CONVOLUTIONS) -> bool:
    """Undo :func:`widen` for the convolutions of ``kinds``, in place. Returns whether there were any."""
    import onnx

    stored = {tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.BFLOAT16}
    makers = {value: node for node in model.graph.node for value in node.output}
    readers = {value: node for node in model.graph.node for value in node.input}
    gone: set[str] = set()
    unused: set[str] = set()
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type in kinds and (casts := _casts(node, makers, readers, stored)):
            before, weight, after = casts
            conv = onnx.NodeProto()
            conv.CopyFrom(node)
            conv.input[:2] = [before.input[0], weight.input[0]]
            conv.output[0] = after.output[0]
            gone.add(after.output[0])
            unused.update((before.output[0], weight.output[0]))
            nodes.append(conv)
        else:
            nodes.append(node)
    unused.difference_update(value for node in nodes for value in node.input)  # simplifiers share a cast
    gone |= unused
    _replace(model, [node for node in nodes if node.op_type != "Cast" or node.output[0] not in gone])
    return bool(gone)


def _casts(
    conv: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto], readers: Mapping[str, onnx.NodeProto], stored: set[str]
) -> tuple[onnx.NodeProto, onnx.NodeProto, onnx.NodeProto] | None:
    """Return the casts of features, weight and result around a convolution, None if it is not between casts."""
    before, weight, after = makers.get(conv.input[0]), makers.get(conv.input[1]), readers.get(conv.output[0])
    if before is None or weight is None or after is None or weight.op_type != "Cast" or weight.input[0] not in stored:
        return None
    return (before, weight, after) if before.op_type == after.op_type == "Cast" else None


def _cast(source: str, target: str, to: int, name: str = "") -> onnx.NodeProto:
    import onnx

    return onnx.helper.make_node("Cast", [source], [target], name=name or target, to=to)


def _replace(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    import onnx

    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(kept)
