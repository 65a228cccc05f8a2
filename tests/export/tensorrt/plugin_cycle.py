"""Every plugin through TensorRT's whole build cycle, with the real Python bindings over stub libraries.

Run this as a program whose PYTHONPATH has one version of the bindings; it prints the plugins' answers as JSON. Small
fakes replace what the bindings take from the libraries: the registry, and the symbols of a dynamic batch. These are
numbers here, so that shapes and grids become numbers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import tensorrt as trt
import torch

BATCHES = (0, 1, 5, 65536)
SIZES = ((16, 8, 12), (5, 6, 10))  # channels, height and width of the output: whole 16 bytes, and not
CLAMP = 2.5
OPEN = -1  # TensorRT's size of a dynamic dimension


class Number:
    """An IDimensionExpr with a known value."""

    def __init__(self, value: int) -> None:
        self.value = value

    def is_constant(self) -> bool:
        return True

    def get_constant_value(self) -> int:
        return self.value

    def is_size_tensor(self) -> bool:
        return False


class Numbers:
    """The expression builder."""

    def constant(self, value: int) -> Number:
        return Number(int(value))

    def operation(self, kind: Any, first: Number, second: Number) -> Number:
        a, b = first.value, second.value
        results = {
            "SUM": a + b,
            "PROD": a * b,
            "SUB": a - b,
            "MIN": min(a, b),
            "MAX": max(a, b),
            "EQUAL": int(a == b),
            "LESS": int(a < b),
            "FLOOR_DIV": a // b if b else 0,
            "CEIL_DIV": -(-a // b) if b else 0,
        }
        return Number(results[kind.name])


class Registry:
    """The plugin registry."""

    def __init__(self) -> None:
        self.creators: dict[tuple[str, str, str], Any] = {}

    def register_creator(self, creator: Any, namespace: str) -> bool:
        self.creators[creator.name, creator.plugin_version, namespace] = creator
        return True

    def get_creator(self, name: str, version: str, namespace: str) -> Any:
        return self.creators.get((name, version, namespace))


registry = Registry()
trt.IDimensionExpr = Number
trt.DimsExprs = lambda length: [None] * length
trt.get_plugin_registry = lambda: registry

import tensorrt.plugin as trtp  # noqa: E402 - after the fakes

trtp._tensor.SymExprImpl = lambda expr: expr._expr

from dcp_deploy.export.tensorrt import plugin_kernels, plugins  # noqa: E402


def input_shapes(operator: plugin_kernels.Operator, batch: int, size: tuple[int, int, int]) -> dict[str, list[int]]:
    """Return the shape of every input for an output of ``size``; noise is shared by the batch in the wide size only."""
    channels, height, width = size
    features = {
        "ModConvEpilogue": [batch, channels, height, width],
        "ModConvEpilogueShuffle": [batch, 4 * channels, height // 2, width // 2],
        "FirEpilogue": [batch, channels, height + 1, width + 1],
    }
    base = "ModConvEpilogueShuffle" if operator.shuffles else "FirEpilogue" if "Fir" in operator.name else None
    known = {
        "x": features[base or "ModConvEpilogue"],
        "scale": [batch, channels],
        "noise": [height, width] if channels == SIZES[0][0] else [batch, 1, height, width],
        "bias": [3] if operator.is_rgb else [channels],
        "next_scale": [batch, channels],
        "styles": [batch, channels],
        "weight": [3, channels],
        "skip": [batch, 3, height // 2, width // 2],
    }
    return {name: known[name] for name in operator.inputs}


def described(shape: list[int], dtype: Any, layout: Any) -> Any:
    """Return a DynamicPluginTensorDesc with a dynamic batch."""
    desc = trt.DynamicPluginTensorDesc()
    desc.desc.dims, desc.desc.type, desc.desc.format = trt.Dims(shape), dtype, layout
    return desc


def symbols(operator: plugin_kernels.Operator, batch: int, size: tuple[int, int, int]) -> list[list[Number]]:
    """Return the shapes of the inputs as numbers in place of symbols."""
    return [[Number(n) for n in shape] for shape in input_shapes(operator, batch, size).values()]


def created(name: str, clamps: bool) -> Any:
    """Create the plugin as the parser does, with the clamp as float32."""
    fields = [trt.PluginField("clamp", np.array([CLAMP], np.float32), trt.PluginFieldType.FLOAT32)] if clamps else []
    creator = registry.get_creator(name, "1", plugins.NAMESPACE)
    strict = trt.QuickPluginCreationRequest.STRICT_AOT
    build = trt.TensorRTPhase.BUILD
    return creator.create_plugin(name, plugins.NAMESPACE, trt.PluginFieldCollection(fields), build, strict)


def cycle(operator: plugin_kernels.Operator, size: tuple[int, int, int]) -> dict[str, Any]:
    """Return types, shapes, combinations and, for every batch and tactic, the launches of one operator."""
    plugin = created(operator.name, operator.clamps)
    shapes = list(input_shapes(operator, OPEN, size).values())
    floats = [trt.DataType.FLOAT] * len(shapes)
    types = plugin.get_output_data_types(floats, [len(shape) for shape in shapes])
    answer: dict[str, Any] = {"operator": operator.name, "size": size, "type": types[0].name, "launches": []}
    every = {batch: symbols(operator, batch, size) for batch in BATCHES}
    answer["shapes"] = [[expr.value for expr in plugin.get_output_shapes(every[n], [], Numbers())[0]] for n in BATCHES]
    shapes.append([OPEN, *answer["shapes"][0][1:]])
    linear = [described(shape, trt.DataType.FLOAT, trt.TensorFormat.LINEAR) for shape in shapes]
    flat = plugin.get_supported_format_combinations(linear, len(shapes) - 1)
    combinations = [flat[first : first + len(shapes)] for first in range(0, len(flat), len(shapes))]
    for batch, exprs in every.items():
        plugin.get_output_shapes(exprs, [], Numbers())
        for combination in combinations:
            in_out = [described(shape, desc.type, desc.format) for shape, desc in zip(shapes, combination, strict=True)]
            plugin.configure_plugin(in_out[:-1], in_out[-1:])
            for tactic in plugin.get_valid_tactics():
                plugin.set_tactic(tactic)
                answer["launches"].append(launched(plugin, exprs, in_out, tactic, batch))
    return answer


def launched(plugin: Any, exprs: list[list[Number]], in_out: list[Any], tactic: int, batch: int) -> dict[str, Any]:
    """Return what TensorRT would launch for one combination and tactic."""
    params, numbers = SimpleNamespace(), Numberlist()
    plugin.get_launch_params(exprs, in_out, len(exprs), params, numbers, Numbers())
    descs = [desc.desc for desc in in_out]
    name, ptx = plugin.get_kernel(descs[:-1], descs[-1:])
    return {
        "batch": batch,
        "types": [desc.type.name for desc in descs],
        "layouts": [desc.format.name for desc in descs],
        "tactic": tactic,
        "kernel": name if isinstance(name, str) else name.decode(),
        "ptx": ptx.decode(),
        "grid": [params.grid_x.value, params.grid_y.value, params.grid_z.value],
        "block": [params.block_x.value, params.block_y.value, params.block_z.value],
        "numbers": [number.value for number in numbers],
    }


class Numberlist(list[Any]):
    """The list of a kernel's extra arguments, which TensorRT sets."""

    @property
    def nbSymExprs(self) -> int:
        return len(self)

    @nbSymExprs.setter
    def nbSymExprs(self, length: int) -> None:
        self[:] = [None] * length


def main(compiled: Path, names: list[str]) -> None:
    """Print all answers. Only the half-precision kernels of the named operators are compiled."""
    facts = plugins.register(89)
    real = plugins.kernel_ptx

    def kernel_ptx(operator: Any, call: Any, dtype: Any, block: int, capability: int) -> tuple[str, str]:
        if operator.name in names and dtype == torch.float16:
            return real(operator, call, dtype, block, capability)
        return plugin_kernels.entry(operator, call, dtype, block)[0], "not compiled"

    plugins.kernel_ptx = kernel_ptx
    answers = [cycle(operator, size) for operator in plugin_kernels.OPERATORS.values() for size in SIZES]
    ptx = {launch["kernel"]: launch.pop("ptx") for answer in answers for launch in answer["launches"]}
    for kernel, text in ptx.items():
        if text != "not compiled":
            (compiled / f"{kernel}.ptx").write_text(text)
    result = {
        "version": trt.__version__,
        "facts": facts,
        "registered": sorted(name for name, _, _ in registry.creators),
        "answers": answers,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
