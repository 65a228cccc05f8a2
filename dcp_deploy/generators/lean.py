"""StyleGAN2's synthesis in fewer passes over the features: the sums of :mod:`.stylegan2`, rounded in another order.

The readable network makes six copies of the features of every layer: times the styles, times the demodulation, plus
noise, plus bias, leaky ReLU, times its gain. Here the gain is part of the small factors, since
g lrelu(v) = lrelu(g v) for g > 0, and scale, noise and bias are one pass. Without gradients all of it is written over
the features. Training and the published figures use the readable network; tests compare the two.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from .mapping import check_ws
from .ops import LRELU_GAIN, LRELU_SLOPE, demodulation, fir_kernel, upsample_image
from .stylegan2 import StyledConv, StyleGAN2Synthesis, ToRGB


def lean_images(synthesis: StyleGAN2Synthesis, ws: Tensor) -> Tensor:
    """Return ``synthesis(ws, noise="const")``, [B, 3, H, W] for ws [B, num_ws, w_dim], up to float32 rounding.

    Gradients by weights and codes are those of the readable network. Fastest with channels last, in float32.
    """
    check_ws(ws, synthesis.config)
    const = synthesis.get_parameter("b4.const")
    x = const.expand(len(ws), *const.shape)
    image: Tensor | None = None
    for level, (_, block) in enumerate(synthesis.blocks()):
        if level:
            x = _conv(block.conv0, x, ws[:, 2 * level - 1], own=True)
        x = _conv(block.conv1, x, ws[:, 2 * level], own=level > 0)
        colours = _colours(block.torgb, x, ws[:, 2 * level + 1])
        image = colours if image is None else upsample_image(image) + colours
    return cast(Tensor, image)


def _conv(layer: StyledConv, x: Tensor, w: Tensor, *, own: bool) -> Tensor:
    """Apply a layer. ``own``: nothing else reads ``x``, so it may be overwritten."""
    styles = layer.affine(w)
    factor = styles[:, :, None, None]
    x = x.mul_(factor) if own and not torch.is_grad_enabled() else x * factor
    if layer.up == 2:
        y = F.conv_transpose2d(x, layer.weight.transpose(0, 1), stride=2)
        kernel = fir_kernel(gain=4.0, like=y)
        y = F.conv2d(y, kernel.expand(y.shape[1], 1, *kernel.shape), padding=1, groups=y.shape[1])
    else:
        y = F.conv2d(x, layer.weight, padding=1)
    scale = demodulation(layer.weight, styles)[:, :, None, None] * LRELU_GAIN
    noise = (layer.noise_const * layer.noise_strength)[..., None]  # [H, W, 1]
    offset = ((noise + layer.bias) * LRELU_GAIN).permute(2, 0, 1)  # [C, H, W], with channels last in memory
    # addcmul is one pass, but its gradient is two more than that of a product
    y = (y * scale).add_(offset) if torch.is_grad_enabled() else torch.addcmul(offset, y, scale, out=y)
    y = F.leaky_relu(y, LRELU_SLOPE, inplace=True)
    return y if layer.conv_clamp is None else y.clamp(-layer.conv_clamp, layer.conv_clamp)


def _colours(layer: ToRGB, x: Tensor, w: Tensor) -> Tensor:
    """Return the colours [B, 3, H, W] as one product for each sample of its features with its own weights [3, C]."""
    weights = layer.weight.flatten(1) * layer.styles(w)[:, None]
    height, width = x.shape[2:]
    y = (x.permute(0, 2, 3, 1).flatten(1, 2) @ weights.transpose(1, 2)).reshape(len(x), height, width, -1)
    y = (y + layer.bias).permute(0, 3, 1, 2)
    return y if layer.conv_clamp is None else y.clamp(-layer.conv_clamp, layer.conv_clamp)
