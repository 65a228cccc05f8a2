"""A graph without functions: standard operators only, for runtimes and converters that have no model-local functions.

The functions' bodies take the place of their calls, constants are computed once, and what only serves functions
(CastLike, Identity, the arithmetic of shapes that are known) goes. Every other operator stays as it is, so the images
are the same. With a fixed batch every shape is known, and no shape is computed at run time.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from .names import rename

if TYPE_CHECKING:
    import onnx


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``model`` without functions and without operators of other domains; nodes are named after their modules.

    The batch of its inputs may be fixed, see :func:`fix_batch`.
    """
    import onnx_ir as ir
    import onnx_ir.passes.common as common
    from onnx.inliner import inline_local_functions
    from onnxscript.optimizer import fold_constants_ir

    flat = inline_local_functions(model)
    _name_bodies(flat, {value: node.name.rpartition("/")[0] for node in model.graph.node for value in node.output})
    graph = ir.from_proto(flat)
    fold_constants_ir(graph, onnx_shape_inference=True, should_fold=_should_fold)
    ir.passes.Sequential(
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
        common.TopologicalSortPass(),
    )(graph)
    result: onnx.ModelProto = ir.to_proto(graph)
    for holder in (result.graph, *result.graph.node, *result.graph.initializer):
        del holder.metadata_props[:]
    del result.graph.value_info[:]
    rename(result, [node.name.rpartition("/")[0] for node in result.graph.node])
    return result


def fix_batch(model: onnx.ModelProto, batch: int) -> None:
    """Fix the first dimension of every input and output, in place."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    del model.graph.value_info[:]


def _should_fold(node: Any) -> bool | None:
    """Return False for weights in a smaller type, which would be stored in a larger one; else None, which decides."""
    import onnx_ir as ir

    if node.op_type in ("DequantizeLinear", "QuantizeLinear"):
        return False
    return False if node.op_type == "Cast" and node.inputs[0].dtype == ir.DataType.BFLOAT16 else None


def _name_bodies(model: onnx.ModelProto, modules: dict[str, str]) -> None:
    """Name the nodes of bodies, which the inliner leaves without names, after the modules of their calls.

    ``modules``: the module of each value of the graph before. A body's nodes stand in a row and end with the value of
    the call.
    """
    module, numbers = "", defaultdict[str, int](int)
    for node in reversed(model.graph.node):
        if node.output[0] in modules:
            module = modules[node.output[0]]
        if not node.name:
            numbers[module] += 1
            node.name = f"{module}/{node.op_type}.{numbers[module]}".lstrip("/")
