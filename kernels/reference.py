"""What follows a modulated convolution, in plain torch. Slow and obvious: tests trust it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

LEAKY_SLOPE = 0.2


def modconv_epilogue(
    x: Tensor, scale: Tensor, noise: Tensor | None, bias: Tensor, *, clamp: float | None = None
) -> Tensor:
    """``clamp(lrelu(x * scale + noise + bias))``: everything between one modulated convolution and the next.

    x [B, C, H, W] is the convolution's output, scale [B, C] its demodulation, noise [H, W] (None: no noise) is the
    same for every channel, bias [C]. The clamp is symmetric and comes last. There is no gain: leaky ReLU is positively
    homogeneous, so the caller folds StyleGAN2's sqrt(2) into scale, noise and bias.
    """
    x = x * scale[:, :, None, None]
    if noise is not None:
        x = x + noise
    x = F.leaky_relu(x + bias[:, None, None], LEAKY_SLOPE)
    return x if clamp is None else x.clamp(-clamp, clamp)
