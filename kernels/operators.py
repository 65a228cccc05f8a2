"""Torch operators ``torch.ops.dcp_deploy.*``: the reference on a CPU, our kernels on a GPU, and fakes for tracing.

Importing this module registers them. Each is described once, by its function in :mod:`.reference`: the annotations
there are its schema. They have no derivative, because training uses the readable generator. Features may lie in memory
as NCHW or NHWC, and results lie as the first argument does; any other layout is copied to NCHW.
"""

from __future__ import annotations

import inspect
from collections import namedtuple
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from . import reference
from .cuda.calls import epilogue_rgb_call, fir_epilogue_call, modconv_epilogue_call, modulation_call, to_rgb_call
from .cuda.launch import launch

P = ParamSpec("P")
Result = TypeVar("Result", Tensor, tuple[Tensor, Tensor])


def _operator(
    meaning: Callable[P, Result], empty: Callable[[Any], Result], on_cuda: Callable[[Any], Result]
) -> Callable[P, Result]:
    """Register ``meaning``, a function of :mod:`.reference`, as an operator of the same name and signature.

    The other two take the arguments as attributes of one tuple. ``empty`` allocates the results, which is all that a
    trace needs. ``on_cuda`` gets dense tensors (see :func:`_dense`) and computes the results on a GPU.
    """
    parameters = inspect.signature(meaning).parameters.values()
    defaults = [parameter.default for parameter in parameters if parameter.default is not parameter.empty]
    new_type: Any = namedtuple  # mypy takes literal names only
    pack = new_type(f"{meaning.__name__}_arguments", inspect.signature(meaning).parameters, defaults=defaults)

    def on_cpu(*arguments: P.args, **options: P.kwargs) -> Result:
        return _laid_out(meaning(*arguments, **options), empty(pack(*arguments, **options)))

    on_cpu.__signature__ = inspect.signature(meaning, eval_str=True)  # type: ignore[attr-defined]
    name = f"dcp_deploy::{meaning.__name__}"
    operator = torch.library.custom_op(name, on_cpu, mutates_args=(), device_types="cpu")
    operator.register_fake(lambda *arguments, **options: empty(pack(*arguments, **options)))
    operator.register_kernel("cuda")(lambda *arguments, **options: on_cuda(_dense(pack(*arguments, **options))))
    return cast("Callable[P, Result]", operator)


def _laid_out(results: Result, empty: Result) -> Result:
    """Return ``results`` in the memory layout of ``empty``: what a trace expects and what the kernels return."""
    if isinstance(results, tuple):
        return tuple(map(_laid_out, results, empty))  # type: ignore[return-value]
    return results if results.stride() == empty.stride() else empty.copy_(results)


def _dense(a: Any) -> Any:
    """Return the arguments with every tensor contiguous; the first one, the features, may be channels last instead."""
    x, *others = a
    x = x if x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()
    return type(a)(x, *(value.contiguous() if isinstance(value, Tensor) else value for value in others))


def _features(x: Tensor, channels: int, height: int, width: int) -> Tensor:
    """Return an empty tensor with the batch, type, device and layout of x."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    memory_format = torch.channels_last if last else torch.contiguous_format
    shape = (x.shape[0], channels, height, width)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format)


# ---- epilogue ----


def _modconv_empty(a: Any) -> Tensor:
    _, channels, height, width = a.x.shape
    shape = (channels // 4, 2 * height, 2 * width) if a.depth_to_space else (channels, height, width)
    return _features(a.x, *shape)


def _modconv_on_cuda(a: Any) -> Tensor:
    y = _modconv_empty(a)
    options = {"clamp": a.clamp, "next_scale": a.next_scale, "depth_to_space": a.depth_to_space}
    launch(modconv_epilogue_call(a.x, a.scale, a.noise, a.bias, y, **options), y.device)
    return y


modconv_epilogue = _operator(reference.modconv_epilogue, _modconv_empty, _modconv_on_cuda)


# ---- FIR and epilogue ----


def _fir_empty(a: Any) -> Tensor:
    _, channels, height, width = a.x.shape
    return _features(a.x, channels, height - 1, width - 1)


def _fir_on_cuda(a: Any) -> Tensor:
    y = _fir_empty(a)
    launch(fir_epilogue_call(a.x, a.scale, a.noise, a.bias, y, clamp=a.clamp, next_scale=a.next_scale), y.device)
    return y


fir_epilogue = _operator(reference.fir_epilogue, _fir_empty, _fir_on_cuda)


# ---- toRGB ----


def _rgb_empty(a: Any) -> Tensor:
    batch, _, height, width = a.x.shape
    shape, dtype = (
        ((batch, height, width, 3), torch.uint8) if a.as_bytes else ((batch, 3, height, width), torch.float32)
    )
    return cast(Tensor, a.x.new_empty(shape, dtype=dtype))


def _rgb_on_cuda(a: Any) -> Tensor:
    image = _rgb_empty(a)
    launch(to_rgb_call(a.x, a.styles, a.weight, a.bias, a.skip, image, clamp=a.clamp), image.device)
    return image


to_rgb = _operator(reference.to_rgb, _rgb_empty, _rgb_on_cuda)


# ---- epilogue and toRGB ----


def _both_empty(a: Any) -> tuple[Tensor, Tensor]:
    y = _features(a.x, *a.x.shape[1:]) if a.keep else a.x.new_empty(0)
    return y, _rgb_empty(a)


def _both_on_cuda(a: Any) -> tuple[Tensor, Tensor]:
    """Launch one kernel where x is channels last; else the epilogue's twice, the first time in float32 for toRGB."""
    if not a.x.is_contiguous(memory_format=torch.channels_last):
        features = modconv_epilogue(a.x.float(), a.scale, a.noise, a.bias, None, a.clamp)
        image = to_rgb(features, a.styles, a.weight, a.rgb_bias, a.skip, a.rgb_clamp, a.as_bytes)
        if not a.keep:
            return a.x.new_empty(0), image
        return modconv_epilogue(a.x, a.scale, a.noise, a.bias, a.next_scale, a.clamp), image
    y, image = _both_empty(a)
    call = epilogue_rgb_call(
        a.x, a.scale, a.noise, a.bias, a.styles, a.weight, a.rgb_bias, a.skip, y if a.keep else None, image,
        next_scale=a.next_scale, clamp=a.clamp, rgb_clamp=a.rgb_clamp,
    )  # fmt: skip
    launch(call, image.device)
    return y, image


epilogue_rgb = _operator(reference.epilogue_rgb, _both_empty, _both_on_cuda)


# ---- styles of all layers ----


def _modulation_empty(a: Any) -> tuple[Tensor, Tensor]:
    batch = a.styles.shape[0]
    return a.styles.new_empty(batch * a.direction_size), a.styles.new_empty(batch * a.scale_size)


def _modulation_on_cuda(a: Any) -> tuple[Tensor, Tensor]:
    directions, scales = _modulation_empty(a)
    tables = (a.energy, a.root_eps, a.layers, a.blocks)
    launch(modulation_call(a.styles, *tables, directions, scales), directions.device)
    return directions, scales


modulation = _operator(reference.modulation, _modulation_empty, _modulation_on_cuda)
