"""The IR version and the opset of a graph: the lowest that its content needs.

The exporter of torch writes opset 18 at least, and the newest IR version. What our graphs contain fits opset 17 and
IR version 8, which brought model-local functions. Files get these, unless a caller asks for newer ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...errors import UsageError

if TYPE_CHECKING:
    import onnx

OLDEST_OPSET = 17
TORCH_OPSET = 18
"""The lowest opset that torch's exporter writes."""
OLDEST_IR = 8


def check_versions(opset: int | None, ir: int | None) -> None:
    """Raise UsageError for an opset or an IR version that is too low, or that the installed onnx does not know."""
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if opset is not None and not OLDEST_OPSET <= opset <= newest:
        needs = f"Use {OLDEST_OPSET}: the styles, the filters and the functions are written for it and tested with it."
        remedy = needs if opset < OLDEST_OPSET else f"Use {newest} at most, the newest of the installed onnx."
        raise UsageError(f"opset {opset} is not one of {OLDEST_OPSET} to {newest}", remedy)
    if ir is not None and not OLDEST_IR <= ir <= onnx.IR_VERSION:
        needs = f"Use {OLDEST_IR}: model-local functions and the operators of opset {OLDEST_OPSET} came with it."
        remedy = needs if ir < OLDEST_IR else f"Use {onnx.IR_VERSION} at most, the newest of the installed onnx."
        raise UsageError(f"IR version {ir} is not one of {OLDEST_IR} to {onnx.IR_VERSION}", remedy)


def versions_of(model: onnx.ModelProto) -> tuple[int, int]:
    """Return the IR version and the opset of a model; opset 1 if it names none."""
    opsets = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    return model.ir_version, max(opsets, default=1)


def lower_opset(model: onnx.ModelProto) -> list[str]:
    """Turn a graph of opset 18 into the same one of opset 17, in place.

    Returns the nodes that cannot be expressed in opset 17, with the reason; then the model is unchanged. The operators
    in ``TENSORRT_OPERATORS`` of :mod:`.file` that differ are the reductions, whose axes become attributes, and Split,
    Pad and Resize, which got options.
    """
    import onnx

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes, needs = [], []
    for node in model.graph.node:
        lowered = onnx.NodeProto()
        lowered.CopyFrom(node)
        if problem := _lower(lowered, constants):
            needs.append(f"{node.name or node.op_type} needs opset 18: {problem}")
        nodes.append(lowered)
    if needs:
        return needs
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input} | {value.name for value in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    if len(kept) < len(model.graph.initializer):
        copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
        del model.graph.initializer[:]
        model.graph.initializer.extend(copies)
    next(entry for entry in model.opset_import if entry.domain == "").version = OLDEST_OPSET
    return []


def _lower(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> str:
    """Write one node for opset 17. Returns why it cannot be, "" if it can."""
    import onnx

    if node.domain:
        return ""
    given = {attribute.name for attribute in node.attribute}
    if node.op_type in ("ReduceMax", "ReduceMin", "ReduceMean") and len(node.input) > 1:
        if node.input[1] not in constants:
            return "its axes are not constant"
        axes = onnx.numpy_helper.to_array(constants[node.input[1]]).astype(np.int64).ravel()
        kept = [attribute for attribute in node.attribute if attribute.name != "noop_with_empty_axes"]
        attributes = sorted([*kept, onnx.helper.make_attribute("axes", axes.tolist())], key=lambda one: one.name)
        del node.input[1:], node.attribute[:]
        node.attribute.extend(attributes)
    elif node.op_type == "Split" and "num_outputs" in given:
        return "it splits into a number of parts"
    elif node.op_type == "Pad" and len(node.input) > 3:
        return "it pads chosen axes"
    elif node.op_type == "Resize":
        return "it resizes"
    return ""
