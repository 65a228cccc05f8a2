"""Operations and bytes of a generator, counted from its graph without running it."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ...generators import Generator, GeneratorConfig
from ..machine.roofline import Work

if TYPE_CHECKING:
    import onnx

Shape = tuple[int, ...]

_LARGEST_CONSTANT = 1024  # bytes; a smaller tensor may be a shape that shape inference must read


class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of every operator's inputs and outputs; views move nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            leaves: list[Any] = torch.utils._pytree.tree_leaves((args, kwargs, result))
            self.bytes += sum(leaf.nbytes for leaf in leaves if isinstance(leaf, torch.Tensor))
        return result


def generator_work(config: GeneratorConfig, batch: int) -> Work:
    """Return the work of one call of the readable network, by torch's counter of operations on the meta device."""
    with torch.device("meta"):
        empty = Generator(config).eval().requires_grad_(False)
    z = torch.zeros(batch, config.z_dim, device="meta")
    psi = torch.ones(batch, device="meta")
    c = torch.zeros(batch, config.c_dim, device="meta") if config.c_dim else None
    with torch.no_grad(), FlopCounterMode(display=False) as counter, _Traffic() as traffic:
        images = empty(z, c, psi=psi)
    weights = empty.state_dict().values()
    once = sum(tensor.nbytes for tensor in (*weights, z, psi, images, c) if tensor is not None)
    return Work(int(counter.get_total_flops()), once, traffic.bytes)


# ---- ONNX ----


def onnx_work(path: str | os.PathLike[str], batch: int) -> Work | None:
    """Return the work of one call of an exported file; None when a shape in it cannot be inferred.

    A node of our own operators moves the bytes of one pass; its operations are those of its body.
    """
    import onnx
    from onnx.inliner import inline_local_functions

    model = onnx.load(os.fspath(path), load_external_data=False)
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > _LARGEST_CONSTANT:
            tensor.ClearField("raw_data")  # only its shape is needed
    whole, parts = _inferred(model, batch), _inferred(inline_local_functions(model), batch)
    if whole is None or parts is None:
        return None
    (graph, sizes), (inlined, inlined_sizes) = whole, parts
    held = {tensor.name for tensor in graph.initializer}
    ends = [value.name for value in (*graph.input, *graph.output) if value.name not in held]
    traffic = sum(_value_bytes(sizes, [*node.input, *node.output]) for node in graph.node if node.op_type != "Constant")
    shapes = {name: shape for name, (shape, _) in inlined_sizes.items()}
    operations = {"float": 0, "int8": 0}
    integers = {node.output[0] for node in inlined.node if node.op_type == "DequantizeLinear"}
    for node in inlined.node:
        whole_numbers = integers.issuperset(node.input[:2])
        operations["int8" if whole_numbers else "float"] += _operations(node, shapes)
    total = sum(operations.values())
    return Work(total, _value_bytes(sizes, [*held, *ends]), traffic, int8_operations=operations["int8"])


def _inferred(model: onnx.ModelProto, batch: int) -> tuple[onnx.GraphProto, dict[str, tuple[Shape, int]]] | None:
    """Return the graph at one batch, and shape and bytes per element of every value; None when one is unknown."""
    import onnx

    model = copy.deepcopy(model)
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        first = value.type.tensor_type.shape.dim[0]
        if not first.HasField("dim_value"):
            first.dim_value = batch
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    sizes = {tensor.name: (tuple(tensor.dims), _width(tensor.data_type)) for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.tensor_type
        if all(dim.HasField("dim_value") for dim in kind.shape.dim):
            sizes[value.name] = tuple(dim.dim_value for dim in kind.shape.dim), _width(kind.elem_type)
    names = {name for node in graph.node for name in (*node.input, *node.output) if name}
    return (graph, sizes) if names <= sizes.keys() else None


def _width(kind: int) -> int:
    """Return the bytes of an element."""
    import onnx

    return int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)


def _value_bytes(sizes: dict[str, tuple[Shape, int]], names: Sequence[str]) -> int:
    return sum(math.prod(sizes[name][0]) * sizes[name][1] for name in names if name)


def _operations(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    """Return two for each multiply-accumulate of a product or a convolution, zero for other nodes."""
    if node.op_type in ("Conv", "ConvTranspose"):  # transposed: a filter for each input element, else for each output
        elements = node.output[0] if node.op_type == "Conv" else node.input[0]
        return 2 * math.prod(shapes[elements]) * math.prod(shapes[node.input[1]][1:])
    if node.op_type == "MatMul":
        return 2 * math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    if node.op_type == "Gemm":
        (rows, columns), target = shapes[node.input[0]], math.prod(shapes[node.output[0]])
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return 2 * target * (rows if transposed else columns)
    return 0
