"""Kernel entry points for TensorRT's ahead-of-time plugins: one for each operator, shape and tactic.

A plugin passes only the inputs of its node, in the order inputs, int32 scalars, outputs. The kernels take every
pointer, and flags that tell which are used. So each plugin gets an entry point that calls the kernel of the same
sources. Everything known when the engine is built (sizes, flags, the clamp's bits) is a constant in it, which lets the
compiler simplify the index arithmetic; only the batch stays a parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from ...kernels.cuda.calls import BLOCK, KernelCall, Variant, fir_epilogue_call, modconv_epilogue_call, to_rgb_call
from ...kernels.cuda.library import ptx_of, source_texts
from ..graph.operators import inputs_of, operator_types, parts_of

Layout = Literal["nchw", "nhwc"]

STORED = {torch.float32: "float", torch.float16: "Half", torch.bfloat16: "BFloat16"}  # the names in storage.cuh
TACTICS: dict[int, tuple[Variant, int]] = {  # id in the engine -> variant, threads per block
    1: ("fast", BLOCK),
    2: ("fast", BLOCK // 2),
    3: ("narrow", BLOCK),
    4: ("naive", BLOCK),
}


@dataclass(frozen=True)
class Operator:
    """One of our ONNX operators: the inputs and options that its name encodes."""

    name: str
    inputs: tuple[str, ...]
    clamps: bool
    shuffles: bool
    as_bytes: bool

    @property
    def is_rgb(self) -> bool:
        """Return whether it is a toRGB, whose output is an image and not features."""
        return self.name.startswith("ToRGB")


OPERATORS = {
    name: Operator(name, tuple(inputs_of(name)), "Clamp" in parts, "Shuffle" in parts, "Bytes" in parts)
    for name in operator_types()
    for _, parts in [parts_of(name)]
}


def plugin_call(
    operator: Operator,
    shapes: Sequence[Sequence[int]],
    dtype: torch.dtype,
    layout: Layout,
    clamp: float | None,
    tactic: int,
) -> KernelCall | None:
    """Return the kernel's call for inputs of ``shapes`` [B, ...], with features of ``dtype`` in ``layout``.

    A batch of -1, TensorRT's "any", is called with one sample. The result is None for an empty batch. Raises
    UsageError for inputs that the kernel cannot take.
    """
    variant, block = TACTICS[tactic]
    known = ([1, *shape[1:]] if shape[0] == -1 else shape for shape in shapes)
    inputs = dict(zip(operator.inputs, known, strict=True))
    x = _meta(inputs["x"], dtype, layout)
    others: list[Any] = [_meta(inputs[name]) if name in inputs else None for name in _rest(operator)]
    options: dict[str, Any] = {"clamp": clamp, "variant": variant, "block": block}
    size = output_shape(operator, inputs["x"])
    if operator.is_rgb:
        styles, weight, bias, skip = others
        image = _meta(size, torch.uint8 if operator.as_bytes else torch.float32)
        return to_rgb_call(x, styles, weight, bias, skip, image, **options)
    scale, noise, bias, options["next_scale"] = others
    y = _meta(size, dtype, layout)
    if operator.name.startswith("FirEpilogue"):
        return fir_epilogue_call(x, scale, noise, bias, y, **options)
    return modconv_epilogue_call(x, scale, noise, bias, y, depth_to_space=operator.shuffles, **options)


def output_shape(operator: Operator, x: Sequence[int]) -> tuple[int, int, int, int]:
    """Return the output's shape for that of the first input; both are numbers or TensorRT's symbolic expressions."""
    batch, channels, height, width = x
    if operator.as_bytes:
        return batch, height, width, 3
    if operator.is_rgb:
        return batch, 3, height, width
    if operator.shuffles:
        return batch, channels // 4, height * 2, width * 2
    if operator.name.startswith("FirEpilogue"):
        return batch, channels, height - 1, width - 1
    return batch, channels, height, width


def legal_tactics(operator: Operator, shapes: Sequence[Sequence[int]], dtype: torch.dtype, layout: Layout) -> list[int]:
    """Return the tactics that differ: if the fast variant is the narrow one already, narrow is not listed again."""
    calls = {tactic: plugin_call(operator, shapes, dtype, layout, None, tactic) for tactic in TACTICS}
    seen: set[tuple[str, int]] = set()
    found = []
    for tactic, call in calls.items():
        key = (call.kernel if call else "", TACTICS[tactic][1])
        if key not in seen:
            seen.add(key)
            found.append(tactic)
    return found


def entry(operator: Operator, call: KernelCall, dtype: torch.dtype, block: int) -> tuple[str, str]:
    """Return (name, CUDA source) of the entry point that makes ``call`` for any batch."""
    count = 5  # pointers of every kernel; then come batch, channels, height, width, two flags and the clamp
    pointers, numbers = call.arguments[:count], call.arguments[count:-1]
    stored = STORED[dtype]
    kept = [f"const {stored}* __restrict__ x", *(f"const float* __restrict__ {name}" for name in operator.inputs[1:])]
    names = ["x", *_rest(operator)]
    passed = [name if pointer is not None else "nullptr" for name, pointer in zip(names, pointers, strict=True)]
    output = "void* __restrict__ y" if operator.is_rgb else f"{stored}* __restrict__ y"
    constants = ["batch", *(str(number) for number in numbers[1:])]
    _, channels, height, width = numbers[:4]
    name = f"{operator.name}_{channels}x{height}x{width}_{call.kernel}_{block}"
    return name, "\n".join(
        [
            '#include "storage.cuh"',
            "#if defined(__CUDACC__)",
            "#define ENTRY(name, parameters, ...) \\",
            '    extern "C" __global__ void __launch_bounds__(kBlock, kBlocks) name parameters { __VA_ARGS__; }',
            "#endif",
            "#undef KERNEL_FOR  // only one kernel of the file is called, as a function",
            "#define KERNEL_FOR(blocks, name, parameters, ...) __device__ inline void name parameters { __VA_ARGS__; }",
            f'#include "{call.source}.cu"',
            f"ENTRY({name}, ({', '.join([*kept, 'int batch', output])}),",
            f"      {call.kernel}({', '.join([*passed, *constants, 'y'])}))\n",
        ]
    )


def kernel_ptx(
    operator: Operator, call: KernelCall, dtype: torch.dtype, block: int, capability: int
) -> tuple[str, str]:
    """Return (kernel's name, PTX) of the entry point that makes ``call``."""
    name, main = entry(operator, call, dtype, block)
    return name, _compiled(name, main, call.source, block, capability)


@cache
def _compiled(name: str, main: str, source: str, block: int, capability: int) -> str:
    headers = source_texts(source)
    threads = f"constexpr int kBlock = {BLOCK};"
    if headers["storage.cuh"].count(threads) != 1:
        raise AssertionError(f"storage.cuh does not say {threads!r}")
    headers["storage.cuh"] = headers["storage.cuh"].replace(threads, f"constexpr int kBlock = {block};")
    return ptx_of(f"{name}.cu", main, headers, capability)


def _rest(operator: Operator) -> tuple[str, str, str, str]:
    """Return the names of the kernel's pointers after x, in its order."""
    return ("styles", "weight", "bias", "skip") if operator.is_rgb else ("scale", "noise", "bias", "next_scale")


def _meta(shape: Sequence[int], dtype: torch.dtype = torch.float32, layout: Layout = "nchw") -> Tensor:
    """Return a tensor with shape and strides but no data."""
    memory_format = torch.channels_last if layout == "nhwc" else torch.contiguous_format
    return torch.empty(tuple(shape), dtype=dtype, device="meta", memory_format=memory_format)
