"""What follows a modulated convolution, in plain torch. Slow and obvious: tests trust it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

LEAKY_SLOPE = 0.2


def modconv_epilogue(
    x: Tensor, scale: Tensor, noise: Tensor | None, bias: Tensor, *, gain: float = 1.0, clamp: float | None = None
) -> Tensor:
    """``clamp(gain * lrelu(x * scale + noise + bias))``: everything between one convolution and the next.

    x [B, C, H, W] is the convolution's output, scale [B, C] its demodulation, noise [H, W] (None: no noise) is the
    same for every channel, bias [C]. The clamp is symmetric and comes last. Leaky ReLU is positively homogeneous,
    so a caller with a constant ``gain`` can fold it into scale, noise and bias and leave 1 here.

    >>> import torch
    >>> modconv_epilogue(torch.ones(1, 1, 1, 1), torch.full((1, 1), 2.0), None, torch.full((1,), -3.0)).item()
    -0.20000000298023224
    """
    x = x * scale[:, :, None, None]
    if noise is not None:
        x = x + noise
    x = F.leaky_relu(x + bias[:, None, None], LEAKY_SLOPE)
    if gain != 1.0:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)
