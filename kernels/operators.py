"""The kernels as torch operators, ``torch.ops.dcp_deploy.*``: the reference on a CPU, CUDA on a GPU, fakes to trace.

Importing this module registers them. They have no derivative: training uses the readable generator. Features may lie
in memory as NCHW or NHWC, and results lie as their first argument does; what lies otherwise is copied to NCHW.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from .cuda.calls import (
    channels_last,
    epilogue_rgb_call,
    fir_epilogue_call,
    modconv_epilogue_call,
    modulation_call,
    to_rgb_call,
)
from .cuda.launch import launch


def _dense(x: Tensor) -> Tensor:
    return x if x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


def _empty(x: Tensor, channels: int, height: int, width: int) -> Tensor:
    """Of x's batch, type, device and layout."""
    memory_format = torch.channels_last if channels_last(_dense(x)) else torch.contiguous_format
    shape = (x.shape[0], channels, height, width)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format)


def _like_empty(result: Tensor, empty: Tensor) -> Tensor:
    """``result`` in the layout of ``empty``: what a trace expects and what the kernels return."""
    return result if result.stride() == empty.stride() else empty.copy_(result)


# ---- epilogue ----


@torch.library.custom_op("dcp_deploy::modconv_epilogue", mutates_args=(), device_types="cpu")
def modconv_epilogue(
    x: Tensor,
    scale: Tensor,
    noise: Tensor | None,
    bias: Tensor,
    next_scale: Tensor | None = None,
    clamp: float | None = None,
    depth_to_space: bool = False,
) -> Tensor:
    """:func:`.reference.modconv_epilogue`."""
    result = reference.modconv_epilogue(
        x, scale, noise, bias, clamp=clamp, next_scale=next_scale, depth_to_space=depth_to_space
    )
    return _like_empty(result, _modconv_shape(x, scale, noise, bias, next_scale, clamp, depth_to_space))


def _modconv_shape(
    x: Tensor,
    scale: Tensor,
    noise: Tensor | None,
    bias: Tensor,
    next_scale: Tensor | None = None,
    clamp: float | None = None,
    depth_to_space: bool = False,
) -> Tensor:
    _, channels, height, width = x.shape
    if depth_to_space:
        return _empty(x, channels // 4, 2 * height, 2 * width)
    return _empty(x, channels, height, width)


def _modconv_on_cuda(
    x: Tensor,
    scale: Tensor,
    noise: Tensor | None,
    bias: Tensor,
    next_scale: Tensor | None = None,
    clamp: float | None = None,
    depth_to_space: bool = False,
) -> Tensor:
    y = _modconv_shape(x, scale, noise, bias, next_scale, clamp, depth_to_space)
    call = modconv_epilogue_call(
        _dense(x),
        scale.contiguous(),
        None if noise is None else noise.contiguous(),
        bias.contiguous(),
        y,
        clamp=clamp,
        next_scale=None if next_scale is None else next_scale.contiguous(),
        depth_to_space=depth_to_space,
    )
    launch(call, x.device)
    return y


# ---- FIR and epilogue ----


@torch.library.custom_op("dcp_deploy::fir_epilogue", mutates_args=(), device_types="cpu")
def fir_epilogue(
    x: Tensor,
    scale: Tensor,
    noise: Tensor | None,
    bias: Tensor,
    next_scale: Tensor | None = None,
    clamp: float | None = None,
) -> Tensor:
    """:func:`.reference.fir_epilogue`."""
    result = reference.fir_epilogue(x, scale, noise, bias, clamp=clamp, next_scale=next_scale)
    return _like_empty(result, _fir_shape(x, scale, noise, bias, next_scale, clamp))


def _fir_shape(
    x: Tensor,
    scale: Tensor,
    noise: Tensor | None,
    bias: Tensor,
    next_scale: Tensor | None = None,
    clamp: float | None = None,
) -> Tensor:
    _, channels, height, width = x.shape
    return _empty(x, channels, height - 1, width - 1)


def _fir_on_cuda(
    x: Tensor,
    scale: Tensor,
    noise: Tensor | None,
    bias: Tensor,
    next_scale: Tensor | None = None,
    clamp: float | None = None,
) -> Tensor:
    y = _fir_shape(x, scale, noise, bias, next_scale, clamp)
    call = fir_epilogue_call(
        _dense(x),
        scale.contiguous(),
        None if noise is None else noise.contiguous(),
        bias.contiguous(),
        y,
        clamp=clamp,
        next_scale=None if next_scale is None else next_scale.contiguous(),
    )
    launch(call, x.device)
    return y


# ---- toRGB ----


@torch.library.custom_op("dcp_deploy::to_rgb", mutates_args=(), device_types="cpu")
def to_rgb(
    x: Tensor,
    styles: Tensor,
    weight: Tensor,
    bias: Tensor,
    skip: Tensor | None = None,
    clamp: float | None = None,
    as_bytes: bool = False,
) -> Tensor:
    """:func:`.reference.to_rgb`, or with ``as_bytes`` :func:`.reference.to_rgb_bytes`."""
    image = reference.to_rgb_bytes if as_bytes else reference.to_rgb
    return image(x, styles, weight, bias, skip, clamp=clamp).contiguous()


def _rgb_shape(
    x: Tensor,
    styles: Tensor,
    weight: Tensor,
    bias: Tensor,
    skip: Tensor | None = None,
    clamp: float | None = None,
    as_bytes: bool = False,
) -> Tensor:
    batch, _, height, width = x.shape
    if as_bytes:
        return x.new_empty((batch, height, width, 3), dtype=torch.uint8)
    return x.new_empty((batch, 3, height, width), dtype=torch.float32)


def _rgb_on_cuda(
    x: Tensor,
    styles: Tensor,
    weight: Tensor,
    bias: Tensor,
    skip: Tensor | None = None,
    clamp: float | None = None,
    as_bytes: bool = False,
) -> Tensor:
    image = _rgb_shape(x, styles, weight, bias, skip, clamp, as_bytes)
    call = to_rgb_call(
        _dense(x),
        styles.contiguous(),
        weight.contiguous(),
        bias.contiguous(),
        None if skip is None else skip.contiguous(),
        image,
        clamp=clamp,
    )
    launch(call, x.device)
    return image


# ---- epilogue and toRGB ----


@torch.library.custom_op("dcp_deploy::epilogue_rgb", mutates_args=(), device_types="cpu")
def epilogue_rgb(
    x: Tensor,
    scale: Tensor,
    noise: Tensor | None,
    bias: Tensor,
    styles: Tensor,
    weight: Tensor,
    rgb_bias: Tensor,
    skip: Tensor | None = None,
    next_scale: Tensor | None = None,
    clamp: float | None = None,
    rgb_clamp: float | None = None,
    as_bytes: bool = False,
    keep: bool = True,
) -> tuple[Tensor, Tensor]:
    """:func:`.reference.epilogue_rgb`: (y, image). Without ``keep`` an empty tensor takes the place of y.

    On a GPU one kernel does it where x is channels last; else the epilogue's runs twice, before toRGB's in float32.
    """
    y, image = reference.epilogue_rgb(
        x,
        scale,
        noise,
        bias,
        styles,
        weight,
        rgb_bias,
        skip,
        next_scale=next_scale,
        clamp=clamp,
        rgb_clamp=rgb_clamp,
        as_bytes=as_bytes,
    )
    return _like_empty(y, _empty(x, *x.shape[1:])) if keep else x.new_empty(0), image.contiguous()


def _both_shapes(
    x: Tensor,
    scale: Tensor,
    noise: Tensor | None,
    bias: Tensor,
    styles: Tensor,
    weight: Tensor,
    rgb_bias: Tensor,
    skip: Tensor | None = None,
    next_scale: Tensor | None = None,
    clamp: float | None = None,
    rgb_clamp: float | None = None,
    as_bytes: bool = False,
    keep: bool = True,
) -> tuple[Tensor, Tensor]:
    y = _empty(x, *x.shape[1:]) if keep else x.new_empty(0)
    return y, _rgb_shape(x, styles, weight, rgb_bias, skip, rgb_clamp, as_bytes)


def _both_on_cuda(
    x: Tensor,
    scale: Tensor,
    noise: Tensor | None,
    bias: Tensor,
    styles: Tensor,
    weight: Tensor,
    rgb_bias: Tensor,
    skip: Tensor | None = None,
    next_scale: Tensor | None = None,
    clamp: float | None = None,
    rgb_clamp: float | None = None,
    as_bytes: bool = False,
    keep: bool = True,
) -> tuple[Tensor, Tensor]:
    y, image = _both_shapes(
        x, scale, noise, bias, styles, weight, rgb_bias, skip, next_scale, clamp, rgb_clamp, as_bytes, keep
    )
    if not x.is_contiguous(memory_format=torch.channels_last):
        image = _rgb_on_cuda(
            _modconv_on_cuda(x.float(), scale, noise, bias, None, clamp),
            styles,
            weight,
            rgb_bias,
            skip,
            rgb_clamp,
            as_bytes,
        )
        return _modconv_on_cuda(x, scale, noise, bias, next_scale, clamp) if keep else y, image
    call = epilogue_rgb_call(
        x,
        scale.contiguous(),
        None if noise is None else noise.contiguous(),
        bias.contiguous(),
        styles.contiguous(),
        weight.contiguous(),
        rgb_bias.contiguous(),
        None if skip is None else skip.contiguous(),
        y if keep else None,
        image,
        next_scale=None if next_scale is None else next_scale.contiguous(),
        clamp=clamp,
        rgb_clamp=rgb_clamp,
    )
    launch(call, x.device)
    return y, image


# ---- styles of all layers ----


@torch.library.custom_op("dcp_deploy::modulation", mutates_args=(), device_types="cpu")
def modulation(
    styles: Tensor,
    energy: Tensor,
    root_eps: Tensor,
    layers: Tensor,
    blocks: Tensor,
    direction_size: int,
    scale_size: int,
) -> tuple[Tensor, Tensor]:
    """:func:`.reference.modulation`: (directions, scales), flat. The tables are those of ModulationTables."""
    return reference.modulation(styles, energy, root_eps, layers, direction_size, scale_size)


def _modulation_shapes(
    styles: Tensor,
    energy: Tensor,
    root_eps: Tensor,
    layers: Tensor,
    blocks: Tensor,
    direction_size: int,
    scale_size: int,
) -> tuple[Tensor, Tensor]:
    batch = styles.shape[0]
    return styles.new_empty(batch * direction_size), styles.new_empty(batch * scale_size)


def _modulation_on_cuda(
    styles: Tensor,
    energy: Tensor,
    root_eps: Tensor,
    layers: Tensor,
    blocks: Tensor,
    direction_size: int,
    scale_size: int,
) -> tuple[Tensor, Tensor]:
    directions, scales = _modulation_shapes(styles, energy, root_eps, layers, blocks, direction_size, scale_size)
    launch(modulation_call(styles.contiguous(), energy, root_eps, layers, blocks, directions, scales), styles.device)
    return directions, scales


# ---- registration: by call, for a decorator would hide the types of what it decorates ----

modconv_epilogue.register_fake(_modconv_shape)
modconv_epilogue.register_kernel("cuda")(_modconv_on_cuda)
fir_epilogue.register_fake(_fir_shape)
fir_epilogue.register_kernel("cuda")(_fir_on_cuda)
to_rgb.register_fake(_rgb_shape)
to_rgb.register_kernel("cuda")(_rgb_on_cuda)
epilogue_rgb.register_fake(_both_shapes)
epilogue_rgb.register_kernel("cuda")(_both_on_cuda)
modulation.register_fake(_modulation_shapes)
modulation.register_kernel("cuda")(_modulation_on_cuda)
