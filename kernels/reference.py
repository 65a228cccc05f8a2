"""What surrounds the convolutions of the fused generator, in plain torch. Slow and obvious: tests trust it.

Features are stored in float32, float16 or bfloat16, everything else in float32; arithmetic is float32, and a result is
rounded once, to the type of the features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .constants import FIR, LEAKY_SLOPE, SMALLEST_PEAK


def modconv_epilogue(
    x: Tensor,
    scale: Tensor,
    noise: Tensor | None,
    bias: Tensor,
    *,
    clamp: float | None = None,
    next_scale: Tensor | None = None,
    depth_to_space: bool = False,
) -> Tensor:
    """``clamp(lrelu(x * scale + noise + bias)) * next_scale``: all between one modulated convolution and the next.

    x [B, C, H, W] is the convolution's output, scale [B, C] its demodulation, noise (None: no noise) [H, W] or
    [B, 1, H, W] the same for every channel, bias [C], next_scale [B, C] the styles of the layer that follows. With
    ``depth_to_space`` x is [B, 4 C, H / 2, W / 2] and channel 4 c + 2 p + q holds the pixels (2 i + p, 2 j + q) of c.
    The clamp is symmetric. There is no gain: leaky ReLU is positively homogeneous, so the caller folds StyleGAN2's
    sqrt(2) into scale, noise and bias.
    """
    stored = x.dtype
    if depth_to_space:
        x = F.pixel_shuffle(x, 2)
    x = x * scale[:, :, None, None]
    if noise is not None:
        x = x + noise
    x = F.leaky_relu(x + bias[:, None, None], LEAKY_SLOPE)
    if clamp is not None:
        x = x.clamp(-clamp, clamp)
    if next_scale is not None:
        x = x * next_scale[:, :, None, None]
    return x if x.dtype == stored else x.to(stored)


def fir_epilogue(
    x: Tensor,
    scale: Tensor,
    noise: Tensor | None,
    bias: Tensor,
    *,
    clamp: float | None = None,
    next_scale: Tensor | None = None,
) -> Tensor:
    """The FIR after a stride-2 transposed convolution, then :func:`modconv_epilogue`.

    [B, C, H + 1, W + 1] -> [B, C, H, W]: 4x4 taps of gain 4, padding 1, zeros outside the border.
    """
    channels = x.shape[1]
    kernel = _fir_kernel(x.device).expand(channels, 1, 4, 4)
    filtered = F.conv2d(x.float(), kernel, padding=1, groups=channels)
    y = modconv_epilogue(filtered, scale, noise, bias, clamp=clamp, next_scale=next_scale)
    return y.to(x.dtype)


def to_rgb(
    x: Tensor, styles: Tensor, weight: Tensor, bias: Tensor, skip: Tensor | None = None, *, clamp: float | None = None
) -> Tensor:
    """``clamp(sum_c x[c] styles[c] weight[o, c] + bias[o]) + up-sampled skip``: the image so far, float32 [B, 3, H, W].

    x [B, C, H, W], styles [B, C], weight [3, C], bias [3], skip [B, 3, H / 2, W / 2] (None at the first resolution).
    Up-sampling puts zeros between pixels and filters, with zeros outside the border.
    """
    image = torch.einsum("bchw,bc,oc->bohw", x.float(), styles, weight) + bias[:, None, None]
    if clamp is not None:
        image = image.clamp(-clamp, clamp)
    if skip is not None:
        kernel = _fir_kernel(x.device).expand(3, 1, 4, 4)
        image = image + F.conv_transpose2d(skip, kernel, stride=2, padding=1, groups=3)
    return image


def to_rgb_bytes(
    x: Tensor, styles: Tensor, weight: Tensor, bias: Tensor, skip: Tensor | None = None, *, clamp: float | None = None
) -> Tensor:
    """:func:`to_rgb` of the last resolution, as uint8 [B, H, W, 3]: clip(127.5 v + 128, 0, 255), truncated."""
    image = to_rgb(x, styles, weight, bias, skip, clamp=clamp)
    return (image * 127.5 + 128.0).clamp(0.0, 255.0).permute(0, 2, 3, 1).contiguous().to(torch.uint8)


def epilogue_rgb(
    x: Tensor,
    scale: Tensor,
    noise: Tensor | None,
    bias: Tensor,
    styles: Tensor,
    weight: Tensor,
    rgb_bias: Tensor,
    skip: Tensor | None = None,
    *,
    next_scale: Tensor | None = None,
    clamp: float | None = None,
    rgb_clamp: float | None = None,
    as_bytes: bool = False,
) -> tuple[Tensor, Tensor]:
    """(y, image): the last epilogue of a resolution, and :func:`to_rgb` or :func:`to_rgb_bytes` of what it makes.

    The colours see the features before ``next_scale`` and before they are rounded to the type of x.
    """
    features = modconv_epilogue(x.float(), scale, noise, bias, clamp=clamp)
    colours = to_rgb_bytes if as_bytes else to_rgb
    image = colours(features, styles, weight, rgb_bias, skip, clamp=rgb_clamp)
    y = features if next_scale is None else features * next_scale[:, :, None, None]
    return y.to(x.dtype), image


def modulation(
    styles: Tensor, energy: Tensor, root_eps: Tensor, layers: Tensor, direction_size: int, scale_size: int
) -> tuple[Tensor, Tensor]:
    """(directions, scales) of all layers as :class:`.cuda.modulation.ModulationTables` lays them out, float32 [B, C].

    styles [B, all inputs], energy [inputs, outputs] of every layer, flat, root_eps [layers]. With peak = max|s| per
    sample and layer: directions are s / peak, scales are rsqrt(directions^2 energy + (root_eps / peak)^2). A layer
    without outputs is not demodulated: its directions are its styles. Gaps between layers are zero.
    """
    batch = len(styles)
    directions, scales = styles.new_zeros(batch * direction_size), styles.new_zeros(batch * scale_size)
    for number, row in enumerate(layers.tolist()):
        inputs, outputs, style, direction, scale, first = row
        part = styles[:, style : style + inputs]
        if outputs:
            peak = part.abs().amax(dim=1, keepdim=True).clamp_min(SMALLEST_PEAK)
            part = part / peak
            weights = energy[first : first + inputs * outputs].view(inputs, outputs)
            made = torch.rsqrt(part.square() @ weights + (root_eps[number] / peak).square())
            scales[batch * scale : batch * (scale + outputs)] = made.flatten()
        directions[batch * direction : batch * (direction + inputs)] = part.flatten()
    return directions, scales


def _fir_kernel(device: torch.device) -> Tensor:
    taps = torch.tensor(FIR, device=device)
    return torch.outer(taps, taps) / 16.0
