"""Turns tensors into a kernel call: which kernel, how many blocks, which arguments.

The same calls run on a GPU (:mod:`.launch`) and, in the tests, on the host emulator. This module touches no device.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...errors import UsageError

Variant = Literal["fast", "narrow", "naive"]
Argument = Tensor | int | None

TAGS = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}

# The sources have constants of the same names: change them together.
BLOCK = 256  # storage.cuh
VISITS, SHUFFLE_VISITS = 4, 2  # modconv_epilogue.cu
TILE_WIDTH, ROWS = 64, 2  # fir_epilogue.cu, and fir_run
SAMPLES = 4  # modulation.cu
WARP, PIXELS = 32, 4  # to_rgb.cuh

WALK, BLOCKS = 4, 1024  # channels-last toRGB: the most tiles per warp, and the blocks needed before any takes a second

MAX_GRID_Y = 65535  # samples beyond are reached by a loop in the kernel
MAX_SAMPLE = 2**31 - 1 - BLOCK  # elements: indices within a sample are 32 bits wide


@dataclass(frozen=True)
class KernelCall:
    """One launch: ``kernel`` of ``source``.cu on a ``grid`` of rows of BLOCK threads."""

    source: str
    kernel: str
    grid: tuple[int, int]
    arguments: tuple[Argument, ...]


def modconv_epilogue_call(
    x: Tensor,
    scale: Tensor,
    noise: Tensor | None,
    bias: Tensor,
    y: Tensor,
    *,
    clamp: float | None = None,
    next_scale: Tensor | None = None,
    depth_to_space: bool = False,
    variant: Variant = "fast",
    block: int = BLOCK,
) -> KernelCall | None:
    """Return the call that fills ``y`` [B, C, H, W], which has x's type and layout; None when y is empty.

    The other arguments are those of :func:`.reference.modconv_epilogue`. ``variant`` "fast" means the wide kernel where
    the tensors allow it, else the narrow one. ``block`` is the number of threads per block that the kernel was compiled
    for. Raises UsageError for tensors that the kernel cannot take.
    """
    batch, channels, height, width = y.shape
    expected = (batch, 4 * channels, height // 2, width // 2) if depth_to_space else tuple(y.shape)
    if depth_to_space:
        _require(height % 2 == 0 and width % 2 == 0, f"depth to space makes even sizes, not {height}x{width}")
    arguments = _epilogue_arguments(x, expected, scale, noise, bias, next_scale, clamp, y)
    last = channels_last(x, y)
    lanes = _lanes(x, arguments, channels if last else width // 2 if depth_to_space else height * width, variant)
    if variant == "naive":
        threads = channels * height * width
    elif depth_to_space:
        visits = math.ceil(channels / SHUFFLE_VISITS)
        threads = channels // lanes * (height * width // 4) if last else width // 2 // lanes * height * visits
    elif last:
        threads = channels // lanes * math.ceil(height * width / VISITS)
    else:
        threads = height * width // lanes * math.ceil(channels / VISITS)
    name = "modconv_d2s" if depth_to_space else "modconv"
    return _call("modconv_epilogue", name, x, last, lanes, variant, math.ceil(threads / block), arguments)


def fir_epilogue_call(
    x: Tensor,
    scale: Tensor,
    noise: Tensor | None,
    bias: Tensor,
    y: Tensor,
    *,
    clamp: float | None = None,
    next_scale: Tensor | None = None,
    variant: Variant = "fast",
    block: int = BLOCK,
) -> KernelCall | None:
    """Return the call that fills ``y`` [B, C, H, W] from x [B, C, H + 1, W + 1]; else like the epilogue's alone."""
    batch, channels, height, width = y.shape
    arguments = _epilogue_arguments(
        x, (batch, channels, height + 1, width + 1), scale, noise, bias, next_scale, clamp, y
    )
    last = channels_last(x, y)
    lanes = _lanes(x, arguments, channels if last else width, variant)
    if variant == "naive":
        blocks = math.ceil(channels * height * width / block)
    elif last:
        blocks = math.ceil(channels // lanes * math.ceil(width / fir_run(width)) * math.ceil(height / ROWS) / block)
    else:
        blocks = channels * math.ceil(width / TILE_WIDTH) * math.ceil(height / (block * lanes // TILE_WIDTH))
    return _call("fir_epilogue", "fir", x, last, lanes, variant, blocks, arguments)


def fir_run(width: int) -> int:
    """Return the outputs per thread along a row of the channels-last FIR: run_length of fir_epilogue.cu."""
    return 4 if width < 64 else min(width // 16, 16)


def to_rgb_call(
    x: Tensor,
    styles: Tensor,
    weight: Tensor,
    bias: Tensor,
    skip: Tensor | None,
    image: Tensor,
    *,
    clamp: float | None = None,
    variant: Variant = "fast",
    block: int = BLOCK,
) -> KernelCall | None:
    """Return the call that fills ``image``: float32 [B, 3, H, W], or uint8 [B, H, W, 3]."""
    batch, channels, height, width = x.shape
    as_bytes = _check_rgb(x, styles, weight, bias, skip, image)
    numbers = (batch, channels, height, width, int(skip is not None), int(as_bytes), _float_bits(clamp))
    arguments = (x, styles, weight, bias, skip, *numbers, image)
    last = channels_last(x)
    lanes = _lanes(x, arguments, channels if last else width, variant)
    if variant == "naive":
        blocks = math.ceil(3 * height * width / block)
    elif last:
        blocks = rgb_blocks(height * width, channels // lanes, 8, block)  # plugins have one grid for every batch
    else:
        blocks = math.ceil(height * (width // lanes) / block)
    return _call("to_rgb", "rgb", x, last, lanes, variant, blocks if image.numel() else 0, arguments)


def rgb_blocks(pixels: int, slots: int, batch: int, block: int = BLOCK) -> int:
    """Return the number of blocks for one sample of the channels-last toRGB; Team of to_rgb.cuh splits the pixels.

    ``slots`` is the number of accesses per pixel. In a large launch each block walks over several tiles, so that it
    reads the constants once.
    """
    rounds = max(1, math.ceil(slots / WARP))
    tile = block // WARP * (WARP // max(PIXELS, math.ceil(slots / rounds))) * PIXELS
    tiles = math.ceil(pixels / tile)
    return math.ceil(tiles / min(max(tiles * batch // BLOCKS, 1), WALK))


def epilogue_rgb_call(
    x: Tensor,
    scale: Tensor,
    noise: Tensor | None,
    bias: Tensor,
    styles: Tensor,
    weight: Tensor,
    rgb_bias: Tensor,
    skip: Tensor | None,
    y: Tensor | None,
    image: Tensor,
    *,
    next_scale: Tensor | None = None,
    clamp: float | None = None,
    rgb_clamp: float | None = None,
    variant: Variant = "fast",
) -> KernelCall | None:
    """Return the call that fills ``y`` (None: it is not stored) and ``image``, see :func:`.reference.epilogue_rgb`.

    x and y lie in memory as [B, H, W, C].
    """
    batch, channels, height, width = x.shape
    nhwc = all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in (x, x if y is None else y))
    _require(nhwc, "x and y must be channels last")
    first = _epilogue_arguments(x, tuple(x.shape), scale, noise, bias, next_scale, clamp, x if y is None else y)
    pointers, numbers, clamp_bits = first[:5], first[5:-2], first[-2]
    as_bytes = _check_rgb(x, styles, weight, rgb_bias, skip, image)
    flags = (int(skip is not None), int(as_bytes), int(y is not None))
    colours = (styles, weight, rgb_bias, skip)
    arguments = (*pointers, *colours, *numbers, *flags, clamp_bits, _float_bits(rgb_clamp), y, image)
    lanes = _lanes(x, arguments, channels, variant)
    if variant == "naive":
        blocks = math.ceil(3 * height * width / BLOCK)
    else:
        blocks = rgb_blocks(height * width, channels // lanes, batch)
    blocks = blocks if image.numel() else 0
    return _call("epilogue_rgb", "epilogue_rgb", x, True, lanes, variant, blocks, arguments)


def modulation_call(
    styles: Tensor,
    energy: Tensor,
    root_eps: Tensor,
    layers: Tensor,
    blocks: Tensor,
    directions: Tensor,
    scales: Tensor,
    *,
    variant: Variant = "fast",
) -> KernelCall | None:
    """Return the call that fills the flat ``directions`` and ``scales``, see :func:`.reference.modulation`."""
    batch, row = styles.shape
    _check("styles", styles, (batch, row))
    _check("energy", energy, (energy.numel(),))
    _check("root_eps", root_eps, (len(layers),))
    _check("layers", layers, (len(layers), 6), torch.int32)
    _check("blocks", blocks, (len(blocks), 2), torch.int32)
    if batch == 0 or len(blocks) == 0:
        return None
    groups = math.ceil(batch / SAMPLES) if variant == "fast" else batch
    arguments = (styles, energy, root_eps, layers, blocks, batch, row, directions, scales)
    return KernelCall("modulation", f"modulation_{variant}_f32", (len(blocks), min(groups, MAX_GRID_Y)), arguments)


def channels_last(*tensors: Tensor) -> bool:
    """Return whether all tensors [B, C, H, W] lie in memory as [B, H, W, C] (True) or all as [B, C, H, W] (False).

    With one channel or pixel the layouts are the same. Raises UsageError for any other or mixed layout.
    """
    if all(tensor.is_contiguous() for tensor in tensors):
        return False
    nhwc = all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in tensors)
    strides = " and ".join(f"{list(tensor.shape)} with strides {list(tensor.stride())}" for tensor in tensors)
    _require(nhwc, f"{strides} lie neither all as NCHW nor all as NHWC in memory")
    return True


def _epilogue_arguments(
    x: Tensor,
    expected: tuple[int, ...],
    scale: Tensor,
    noise: Tensor | None,
    bias: Tensor,
    next_scale: Tensor | None,
    clamp: float | None,
    y: Tensor,
) -> tuple[Argument, ...]:
    """Check that the tensors fit together, and return them in the order of EPILOGUE_PARAMETERS in epilogue.cuh."""
    batch, channels, height, width = y.shape
    _require(tuple(x.shape) == expected, f"x is {list(x.shape)}, the output needs {list(expected)}")
    _require(x.dtype in TAGS, f"x is {x.dtype}: float32, float16 or bfloat16 are stored")
    _require(x.dtype == y.dtype, "input and output differ in type")
    _require(max(x[:1].numel(), y[:1].numel()) <= MAX_SAMPLE, f"a sample of {list(x.shape[1:])} is too large")
    _check("scale", scale, (batch, channels))
    _check("bias", bias, (channels,))
    if next_scale is not None:
        _check("next_scale", next_scale, (batch, channels))
    noise_kind = 0  # NoiseKind of epilogue.cuh
    if noise is not None:
        noise_kind = 1 if noise.ndim == 2 else 2
        _check("noise", noise, (height, width) if noise_kind == 1 else (batch, 1, height, width))
    numbers = (*y.shape, noise_kind, int(next_scale is not None), _float_bits(clamp))
    return (x, scale, noise, bias, next_scale, *numbers, y)


def _check_rgb(x: Tensor, styles: Tensor, weight: Tensor, bias: Tensor, skip: Tensor | None, image: Tensor) -> bool:
    """Check that the tensors fit together; return whether the image is bytes."""
    batch, channels, height, width = x.shape
    as_bytes = image.dtype == torch.uint8
    _check("image", image, (batch, height, width, 3) if as_bytes else (batch, 3, height, width), image.dtype)
    _require(as_bytes or image.dtype == torch.float32, f"the image is {image.dtype}, not uint8 or float32")
    _check("styles", styles, (batch, channels))
    _check("weight", weight, (3, channels))
    _check("bias", bias, (3,))
    if skip is not None:
        _require(height % 2 == 0 and width % 2 == 0, f"a skip image doubles to even sizes, not {height}x{width}")
        _check("skip", skip, (batch, 3, height // 2, width // 2))
    _require(x.dtype in TAGS, f"x is {x.dtype}: float32, float16 or bfloat16 are stored")
    _require(max(channels, 3) * height * width <= MAX_SAMPLE, f"a sample of {list(x.shape[1:])} is too large")
    return as_bytes


def _lanes(x: Tensor, arguments: tuple[Argument, ...], row: int, variant: Variant) -> int:
    """Return the elements per access: 16 bytes where rows and starts of all tensors are multiples of that, else one."""
    lanes = 16 // x.element_size()
    starts = all(tensor.data_ptr() % 16 == 0 for tensor in arguments if isinstance(tensor, Tensor))
    return lanes if variant == "fast" and row % lanes == 0 and starts else 1


def _call(
    source: str,
    name: str,
    x: Tensor,
    last: bool,
    lanes: int,
    variant: Variant,
    blocks: int,
    arguments: tuple[Argument, ...],
) -> KernelCall | None:
    batch = x.shape[0]
    if batch == 0 or blocks == 0:
        return None
    layout = "nhwc" if last else "nchw"
    access = "naive" if variant == "naive" else "wide" if lanes > 1 else "narrow"
    return KernelCall(source, f"{name}_{layout}_{access}_{TAGS[x.dtype]}", (blocks, min(batch, MAX_GRID_Y)), arguments)


def _float_bits(clamp: float | None) -> int:
    """Return the clamp as an int32 with the bits of its float32; None becomes infinity."""
    bits: int = struct.unpack("<i", struct.pack("<f", math.inf if clamp is None else clamp))[0]
    return bits


def _check(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> None:
    _require(tuple(tensor.shape) == shape, f"{name} is {list(tensor.shape)}, not {list(shape)}")
    _require(tensor.dtype == dtype, f"{name} is {tensor.dtype}, not {dtype}")
    _require(tensor.is_contiguous(), f"{name} is not contiguous")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise UsageError(message, "Compare the shapes with dcp_deploy.kernels.reference.")
