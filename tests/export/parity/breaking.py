"""Deliberate mistakes in exported ONNX files, so that the gate is tested on real files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Damage = Callable[[onnx.ModelProto], None]
Step = tuple[str, list[np.ndarray], dict[str, int | list[int]]]  # operator, its further inputs, its attributes


def broken(source: Path, target: Path, damage: Damage) -> Path:
    """Write a copy of an exported file with one mistake."""
    model = onnx.load(source)
    damage(model)
    onnx.save(model, target)
    return target


def edit(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    """Change a weight."""

    def damage(model: onnx.ModelProto) -> None:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        changed = np.ascontiguousarray(change(numpy_helper.to_array(tensor).copy()))
        tensor.CopyFrom(numpy_helper.from_array(changed, name))

    return damage


def after(module: str, *steps: Step) -> Damage:
    """Add operators after a module ("synthesis.b8.conv1"; "image": at the end), as if they belonged to it."""

    def damage(model: onnx.ModelProto) -> None:
        graph = model.graph
        if module == "image":
            last = next(node for node in graph.node if "image" in node.output)
        else:
            last = [node for node in graph.node if node.name.rpartition("/")[0] == module][-1]
        original = last.output[0]
        last.output[0] = value = f"{original} before"
        place = list(graph.node).index(last) + 1
        for number, (operator, arrays, attributes) in enumerate(steps):
            names = [f"{module} {number} {index}" for index in range(len(arrays))]
            graph.initializer.extend(numpy_helper.from_array(*pair) for pair in zip(arrays, names, strict=True))
            output = original if number == len(steps) - 1 else f"{module} {number}"
            name = f"{module}/Broken_{number}"
            node = helper.make_node(operator, [value, *names], [output], name=name, **attributes)
            graph.node.insert(place + number, node)
            value = output

    return damage


def gather(axis: int, order: list[int]) -> Step:
    """Reorder channels, rows or columns."""
    return "Gather", [np.array(order, np.int64)], {"axis": axis}


def times(factor: float) -> Step:
    """Multiply by a factor."""
    return "Mul", [np.array(factor, np.float32)], {}


def cast(kind: int) -> Step:
    """Round to another type."""
    return "Cast", [], {"to": kind}


def shifted(axis: int, size: int) -> Step:
    """Shift by one pixel to the right or down, wrapping at the border."""
    return gather(axis, [size - 1, *range(size - 1)])


def filter_of(layer: str, change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    """Change the low-pass filter of one up-sampling layer, which is in the body of its operator."""

    def damage(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if node.name.startswith(f"synthesis.{layer}/FirEpilogue"))
        function = onnx.FunctionProto()
        function.CopyFrom(next(function for function in model.functions if function.name == node.op_type))
        node.op_type = function.name = f"{node.op_type}Broken"
        taps = next(node for node in function.node if node.output[0] == "tap").attribute[0].t
        taps.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(taps))))
        model.functions.append(function)

    return damage


ENDS = [np.array([number], np.int64) for number in (-1, np.iinfo(np.int64).min, 0, -1)]  # start, end, axis, step
SWAPPED_SAMPLES: Step = ("Slice", ENDS, {})
OVERFLOWING = (times(1e6), cast(TensorProto.FLOAT16), cast(TensorProto.FLOAT), times(1e-6))
CHANNELS_LAST_READ_AS_FIRST: tuple[Step, Step] = (
    ("Transpose", [], {"perm": [0, 2, 3, 1]}),
    ("Reshape", [np.array([-1, 3, 32, 32], np.int64)], {}),
)


def psi_of_the_first_sample(model: onnx.ModelProto) -> None:
    """Make the file correct only for batches with one psi."""
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.int64), "first"))
    _psi_from(model, helper.make_node("Gather", ["psi", "first"], ["other psi"]))


def psi_twice(model: onnx.ModelProto) -> None:
    _psi_from(model, helper.make_node("Mul", ["psi", "psi"], ["other psi"]))


def psi_ignored(model: onnx.ModelProto) -> None:
    _psi_from(model, helper.make_node("Div", ["psi", "psi"], ["other psi"]))


def _psi_from(model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    reader = next(node for node in model.graph.node if "psi" in node.input)
    reader.input[list(reader.input).index("psi")] = "other psi"
    model.graph.node.insert(0, node)


def style_rows(layer: int, widths: list[int], factor: float) -> Damage:
    """Scale half of a layer's styles (by its number); demodulation would cancel a factor of all of them."""
    start = sum(widths[:layer])

    def change(values: np.ndarray) -> np.ndarray:
        values[start : start + widths[layer] // 2] *= factor
        return values

    def damage(model: onnx.ModelProto) -> None:
        for name in ("styles.affine.weight", "styles.affine.bias", "styles.base"):
            edit(name, change)(model)

    return damage
