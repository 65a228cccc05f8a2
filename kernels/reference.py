"""The operations around the convolutions of the fused generator in plain torch, slow and simple: tests rely on them.

The signatures here are those of the operators in :mod:`.operators`. Features are stored in float32, float16 or
bfloat16, everything else in float32. Arithmetic is float32, and a result is rounded once, to the type of the features.
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
    next_scale: Tensor | None = None,
    clamp: float | None = None,
    depth_to_space: bool = False,
) -> Tensor:
    """Return ``clamp(lrelu(x * scale + noise + bias)) * next_scale``: everything between two modulated convolutions.

    x [B, C, H, W] is the convolution's output and scale [B, C] its demodulation. noise is None, [H, W] or [B, 1, H, W],
    the same for every channel. bias is [C]. next_scale [B, C] holds the styles of the layer that follows. With
    ``depth_to_space`` x is [B, 4 C, H / 2, W / 2] and channel 4 c + 2 p + q holds the pixels (2 i + p, 2 j + q) of c.
    The clamp is symmetric. It has no gain: leaky ReLU is positively homogeneous, so the caller folds StyleGAN2's
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
    next_scale: Tensor | None = None,
    clamp: float | None = None,
) -> Tensor:
    """Apply the FIR that follows a stride-2 transposed convolution, then :func:`modconv_epilogue`.

    [B, C, H + 1, W + 1] -> [B, C, H, W]: 4x4 taps of gain 4, padding 1, zeros outside the border.
    """
    channels = x.shape[1]
    kernel = _fir_kernel(x.device).expand(channels, 1, 4, 4)
    filtered = F.conv2d(x.float(), kernel, padding=1, groups=channels)
    return modconv_epilogue(filtered, scale, noise, bias, next_scale, clamp).to(x.dtype)


def to_rgb(
    x: Tensor,
    styles: Tensor,
    weight: Tensor,
    bias: Tensor,
    skip: Tensor | None = None,
    clamp: float | None = None,
    as_bytes: bool = False,
) -> Tensor:
    """Return ``clamp(sum_c x[c] styles[c] weight[o, c] + bias[o]) + up-sampled skip``: the image so far.

    x [B, C, H, W], styles [B, C], weight [3, C], bias [3], skip [B, 3, H / 2, W / 2] (None at the first resolution).
    Up-sampling puts zeros between pixels and filters, with zeros outside the border. The image v is float32
    [B, 3, H, W], or with ``as_bytes`` uint8 [B, H, W, 3]: clip(127.5 v + 128, 0, 255), truncated.
    """
    image = torch.einsum("bchw,bc,oc->bohw", x.float(), styles, weight) + bias[:, None, None]
    if clamp is not None:
        image = image.clamp(-clamp, clamp)
    if skip is not None:
        kernel = _fir_kernel(x.device).expand(3, 1, 4, 4)
        image = image + F.conv_transpose2d(skip, kernel, stride=2, padding=1, groups=3)
    if as_bytes:
        image = (image * 127.5 + 128.0).clamp(0.0, 255.0).permute(0, 2, 3, 1).contiguous().to(torch.uint8)
    return image


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
    """Return (y, image): the last :func:`modconv_epilogue` of a resolution, and :func:`to_rgb` of its result.

    toRGB reads the features before ``next_scale`` and before they are rounded to the type of x. Without ``keep`` an
    empty tensor takes the place of y.
    """
    features = modconv_epilogue(x.float(), scale, noise, bias, None, clamp)
    image = to_rgb(features, styles, weight, rgb_bias, skip, rgb_clamp, as_bytes)
    if not keep:
        return x.new_empty(0), image
    return (features if next_scale is None else features * next_scale[:, :, None, None]).to(x.dtype), image


def modulation(
    styles: Tensor,
    energy: Tensor,
    root_eps: Tensor,
    layers: Tensor,
    blocks: Tensor,
    direction_size: int,
    scale_size: int,
) -> tuple[Tensor, Tensor]:
    """Return (directions, scales) of all layers, flat, float32, laid out as :class:`.cuda.modulation.ModulationTables`.

    styles [B, all inputs], energy [inputs, outputs] of every layer, flat, root_eps [layers]. With peak = max|s| per
    sample and layer: directions are s / peak, scales are rsqrt(directions^2 energy + (root_eps / peak)^2). A layer
    without outputs is not demodulated: its directions are its styles. Gaps between layers are zero. ``layers`` and
    ``blocks`` are the tables; only the CUDA kernel reads ``blocks``.
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
