"""Weights that are stored in fewer bits than they are computed in, and what each layer of a file weighs.

An int8 file computes only ordinary convolutions in integers. All other large tensors are stored in int8 (with one scale
for each output channel) or float16, and restored to float32 in front of the operator that reads them: a Cast, and for
int8 a Mul by the scales. ONNX Runtime and OpenVINO compute both once, when they load the file. DequantizeLinear would
mean the same, but ONNX Runtime 1.32 keeps it for its integer operators and runs it again in every call.

:func:`restored` undoes it for TensorRT, whose graph then has float32 constants.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx

Array = npt.NDArray[Any]

LARGEST = 127  # -128 is not used: symmetric
STORED = (".int8", ".float16")
"""Endings of the names of tensors in another type than the one they are computed in."""
SMALLEST = 1024
"""Elements below which a tensor stays as it is: a toRGB layer or a bias is not worth two nodes."""


@dataclass(frozen=True)
class LayerStorage:
    """The bytes that the constants of one layer take in a file, by their type ("int8", "float16", "float32", ...)."""

    layer: str
    types: dict[str, int]

    @property
    def bytes(self) -> int:
        """Return the bytes of all types."""
        return sum(self.types.values())


def step_sizes(peaks: Array) -> Array:
    """Return the step sizes for which ``peaks`` become 127, float32; 1 where the peak is 0."""
    return np.where(peaks > 0, peaks / LARGEST, 1.0).astype(np.float32)


def storable(model: onnx.ModelProto) -> dict[str, list[str]]:
    """Return the names of the tensors that :func:`store` can make smaller, by layer, in the order of the file.

    These are weights of convolutions and styles (int8), and the mapping network and noise maps (float16).
    """
    axes = _channel_axes(model)
    found: dict[str, list[str]] = {}
    for tensor in model.graph.initializer:
        if _kind(tensor, axes):
            found.setdefault(layer_of(tensor.name), []).append(tensor.name)
    return found


def store(model: onnx.ModelProto, layers: Collection[str], rounded: Mapping[str, Array] | None = None) -> None:
    """Store the tensors of ``layers`` (keys of :func:`storable`) in int8 or float16, in place.

    Weights are rounded to the nearest integers, or are those of ``rounded``: int8 by name, in steps of
    :func:`step_sizes` of each channel. Equal arguments give equal bytes.
    """
    from onnx import numpy_helper

    axes = _channel_axes(model)
    nodes: list[onnx.NodeProto] = []
    kept: list[onnx.TensorProto] = []
    for tensor in model.graph.initializer:
        kind = _kind(tensor, axes) if layer_of(tensor.name) in layers else None
        if kind is None:
            kept.append(tensor)
            continue
        values = numpy_helper.to_array(tensor)
        steps: Array | None = None
        if kind == "float16":
            stored = values.astype(np.float16)
        else:
            stored, steps = _integers(values, axes[tensor.name], (rounded or {}).get(tensor.name))
        kept += _constants(tensor.name, stored, steps)
        nodes += _restoring(tensor.name, str(stored.dtype), scaled=steps is not None)
    _replace(model, [*nodes, *model.graph.node], kept)


def restored(model: onnx.ModelProto) -> bool:
    """Undo :func:`store` in place, up to its rounding. Returns whether there was something to undo."""
    from onnx import numpy_helper

    held = {tensor.name: tensor for tensor in model.graph.initializer}
    made: dict[str, Array] = {}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        source = held.get(node.input[0]) if node.op_type == "Cast" else None
        if source is not None and source.name.endswith(STORED):
            made[node.output[0]] = numpy_helper.to_array(held.pop(source.name)).astype(np.float32)
        elif node.op_type == "Mul" and node.input[1] == f"{node.output[0]}.scale" and node.input[0] in made:
            made[node.output[0]] = made.pop(node.input[0]) * numpy_helper.to_array(held.pop(node.input[1]))
        else:
            nodes.append(node)
    if made:
        constants = [numpy_helper.from_array(values, name) for name, values in made.items()]
        _replace(model, nodes, [*held.values(), *constants])
    return bool(made)


def layer_storage(model: onnx.ModelProto) -> tuple[LayerStorage, ...]:
    """Return what each layer's constants take in the file, the largest layer first. Data outside the file counts."""
    import onnx

    found: dict[str, dict[str, int]] = {}
    for tensor in model.graph.initializer:
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        types = found.setdefault(layer_of(tensor.name), {})
        types[str(kind)] = types.get(str(kind), 0) + math.prod(tensor.dims) * int(kind.itemsize)
    layers = (LayerStorage(layer, types) for layer, types in found.items())
    return tuple(sorted(layers, key=lambda row: -row.bytes))


def layer_of(name: str) -> str:
    """Map the name of a constant or a node to its layer: "b8.conv1", "L3", "mapping", "styles"; "other" without one."""
    parts = name.partition("/")[0].removeprefix("synthesis.").split(".")
    if parts[0] in ("mapping", "styles"):
        return parts[0]
    if not name.startswith("synthesis."):
        return "other"
    return ".".join(parts[:2]) if parts[1:] and parts[1] in ("conv0", "conv1", "torgb") else parts[0]


def _channel_axes(model: onnx.ModelProto) -> dict[str, int]:
    """Return the axis of the output channels of every weight that a dense convolution or a product by styles reads."""
    axes = {}
    for node in model.graph.node:
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type in ("Conv", "ConvTranspose") and attributes.get("group", 1) == 1:
            axes[node.input[1]] = 1 if node.op_type == "ConvTranspose" else 0
        elif node.op_type == "Gemm":
            axes[node.input[1]] = 0 if attributes.get("transB") else 1
    return axes


def _kind(tensor: onnx.TensorProto, axes: Mapping[str, int]) -> str | None:
    """Return the type to store a tensor in, None for one that stays as it is.

    Eight layers of the mapping network follow each other, so their errors add up: in int8 they alone bring the worst
    of 12 images of the demo's teacher to 36 dB, everything else to 50 dB. Sums of squares for the demodulation stay in
    float32, because float16 has too small a range for channels with small weights.
    """
    import onnx
    from onnx import numpy_helper

    if tensor.data_type != onnx.TensorProto.FLOAT or math.prod(tensor.dims) < SMALLEST:
        return None
    if tensor.name in axes and not tensor.name.startswith("mapping."):
        return "int8" if np.isfinite(numpy_helper.to_array(tensor)).all() else None
    if not tensor.name.startswith("mapping.") and not tensor.name.endswith(".noise"):
        return None
    return "float16" if np.abs(numpy_helper.to_array(tensor)).max() <= np.finfo(np.float16).max else None


def _integers(values: Array, axis: int, rounded: Array | None) -> tuple[Array, Array]:
    """Return int8 values and their steps, which are one for every channel of ``axis``."""
    others = tuple(dim for dim in range(values.ndim) if dim != axis)
    steps = step_sizes(np.abs(values.astype(np.float64)).max(axis=others, keepdims=True))
    if rounded is None:
        rounded = np.clip(np.rint(values / steps), -LARGEST, LARGEST)
    return rounded.astype(np.int8), steps


def _constants(name: str, stored: Array, steps: Array | None) -> list[onnx.TensorProto]:
    from onnx import numpy_helper

    scales = [] if steps is None else [numpy_helper.from_array(steps, f"{name}.scale")]
    return [numpy_helper.from_array(stored, f"{name}.{stored.dtype}"), *scales]


def _restoring(name: str, kind: str, *, scaled: bool) -> list[onnx.NodeProto]:
    """Return the nodes that make the float32 tensor ``name`` of what is stored."""
    import onnx

    wide = f"{name}.wide" if scaled else name
    cast = onnx.helper.make_node("Cast", [f"{name}.{kind}"], [wide], name=f"{name}/Cast", to=onnx.TensorProto.FLOAT)
    scale = onnx.helper.make_node("Mul", [wide, f"{name}.scale"], [name], name=f"{name}/Mul")
    return [cast, scale] if scaled else [cast]


def _replace(model: onnx.ModelProto, nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto]) -> None:
    import onnx

    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    tensors = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in tensors]
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(tensors)
