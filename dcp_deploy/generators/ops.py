"""The operators of StyleGAN2 and StyleGAN3 in plain torch: the reference that every faster version is tested against.

Convolutions are PyTorch's (cross-correlation); images and activations are [B, C, H, W].
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

LRELU_SLOPE = 0.2
LRELU_GAIN = math.sqrt(2.0)
DEMODULATION_EPS = 1e-8
FIR_TAPS = (1.0, 3.0, 3.0, 1.0)


def normalize_second_moment(x: Tensor) -> Tensor:
    """Return ``x`` [B, N] with each row scaled to a mean square of one, as z and the class embedding are."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


def bias_act(x: Tensor, bias: Tensor, clamp: float | None = None) -> Tensor:
    """Return ``clamp(sqrt(2) * lrelu_0.2(x + bias), +-clamp)``, with channels in dimension 1."""
    shape = (1, -1) + (1,) * (x.ndim - 2)
    y = F.leaky_relu(x + bias.to(x.dtype).reshape(shape), LRELU_SLOPE) * LRELU_GAIN
    return y if clamp is None else y.clamp(-clamp, clamp)


def fir_kernel(gain: float = 1.0, like: Tensor | None = None) -> Tensor:
    """Return the 4x4 low-pass filter outer([1,3,3,1], [1,3,3,1]) * gain / 64, with dtype and device of ``like``."""
    if like is not None and like.is_cuda:
        return _fir_kernel_on(gain, like.device, like.dtype)
    taps = torch.tensor(FIR_TAPS)
    kernel = torch.outer(taps, taps) * (gain / 64.0)
    return kernel if like is None else kernel.to(like)


@lru_cache
def _fir_kernel_on(gain: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the filter from a cache: a copy from the host would wait for all work queued on the GPU."""
    with torch.inference_mode(False):  # a later caller may need gradients
        return fir_kernel(gain).to(device, dtype)


def filter2d(x: Tensor, kernel: Tensor) -> Tensor:
    """Filter every channel of ``x`` with ``kernel`` [k, k], without padding."""
    channels = x.shape[1]
    return F.conv2d(x, kernel.to(x).expand(channels, 1, *kernel.shape), groups=channels)


def upsample_image(image: Tensor) -> Tensor:
    """Double an image's size: zeros between pixels and outside the border, then the FIR filter with gain 4.

    [B, C, H, W] -> [B, C, 2H, 2W]. The transposed convolution with padding 1 does exactly that.
    """
    channels = image.shape[1]
    kernel = fir_kernel(gain=4.0, like=image).expand(channels, 1, 4, 4)
    return F.conv_transpose2d(image, kernel, stride=2, padding=1, groups=channels)


def upsample_conv2d(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve and double the size: transposed 3x3 convolution of stride 2, then the FIR filter with gain 4.

    [B, Ci, H, W] with weight [Co, Ci, 3, 3] -> [B, Co, 2H, 2W]. The stored kernel is not flipped.
    """
    y = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)  # [B, Co, 2H + 1, 2W + 1]
    return filter2d(F.pad(y, (1, 1, 1, 1)), fir_kernel(gain=4.0, like=y))


def demodulation(weight: Tensor, styles: Tensor) -> Tensor:
    """Return ``d[b, o] = rsqrt(sum_ikk (W[o,i,k,k] s[b,i])^2 + 1e-8)``: [Co, Ci, k, k], [B, Ci] -> [B, Co].

    The sum over the kernel does not depend on the sample, so this is one matrix product of squares (Karras et al. 2020,
    "Analyzing and Improving the Image Quality of StyleGAN", equation 3).
    """
    return (styles.square() @ weight.square().sum(dim=(2, 3)).T + DEMODULATION_EPS).rsqrt()


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    demodulate: bool = True,
    up: int = 1,
    padding: int | None = None,
) -> Tensor:
    """Convolve with the weights scaled by ``styles`` [B, Ci] per input channel, then normalised per output channel.

    This scales the input and the output instead of the weights of each sample, which is equivalent and leaves one
    dense convolution. ``padding`` None keeps the size. For ``x`` in fp16 or bf16 only the convolution is computed in
    that type (:func:`_modulated_conv2d_16`).
    """
    if x.dtype != weight.dtype:
        return _modulated_conv2d_16(x, weight, styles, demodulate=demodulate, up=up, padding=padding)
    scaled = x * styles[:, :, None, None]
    if up == 2:
        y = upsample_conv2d(scaled, weight)
    else:
        y = F.conv2d(scaled, weight, padding=weight.shape[-1] // 2 if padding is None else padding)
    return y * demodulation(weight, styles)[:, :, None, None] if demodulate else y


def _modulated_conv2d_16(
    x: Tensor, weight: Tensor, styles: Tensor, *, demodulate: bool, up: int, padding: int | None
) -> Tensor:
    """Compute :func:`modulated_conv2d` for ``x`` in 16 bits, with weights and styles in float32.

    Raw weights of a StyleGAN may have any scale, and a sum over 512 x 9 of them exceeds fp16's 65504. So each filter is
    scaled to length one and each sample's styles to a mean square of one. After the convolution both factors are
    undone, together with the demodulation. They are computed in float32.
    """
    lengths = weight.square().sum(dim=(1, 2, 3), keepdim=True).add(1e-20).rsqrt()  # [Co, 1, 1, 1]
    means = styles.square().mean(dim=1, keepdim=True).add(1e-20).rsqrt()  # [B, 1]
    scaled, filters = x * (styles * means).to(x.dtype)[:, :, None, None], (weight * lengths).to(x.dtype)
    if up == 2:
        y = upsample_conv2d(scaled, filters)
    else:
        y = F.conv2d(scaled, filters, padding=weight.shape[-1] // 2 if padding is None else padding)
    gain = 1 / (lengths.flatten() * means)  # [B, Co]
    if not demodulate:
        return y.to(weight.dtype) * gain[:, :, None, None]  # colours are summed in float32
    return y * (gain * demodulation(weight, styles)).to(x.dtype)[:, :, None, None]


# ---- StyleGAN3's resampling ----


def upsample2d(x: Tensor, kernel: Tensor, up: int, padding: tuple[int, int]) -> Tensor:
    """Insert ``up - 1`` zeros after each sample, pad (before, after; negative crops), then filter with gain up^2.

    [B, C, H, W] and a separable filter [taps] -> [B, C, up H + before + after - taps + 1, same for W]. A transposed
    convolution of that stride inserts the zeros and convolves fully; the positions beyond the padding are cut off.
    """
    channels, taps, (before, after) = x.shape[1], len(kernel), padding
    # The full result starts taps - 1 before the valid result of an unpadded signal, and lacks up - 1 at its end.
    cut = (before - (taps - 1), after + up - 1 - (taps - 1))
    rows = (kernel.to(x) * up).reshape(1, 1, taps, 1).expand(channels, -1, -1, -1)
    x = F.pad(F.conv_transpose2d(x, rows, stride=(up, 1), groups=channels), (0, 0, *cut))
    return F.pad(F.conv_transpose2d(x, rows.transpose(2, 3), stride=(1, up), groups=channels), cut)


def downsample2d(x: Tensor, kernel: Tensor, down: int) -> Tensor:
    """Filter without padding ([taps] separable or [taps, taps]), then keep every ``down``-th sample from the first."""
    channels, kernel = x.shape[1], kernel.to(x)
    if kernel.ndim == 2:
        return F.conv2d(x, kernel.expand(channels, 1, -1, -1), stride=down, groups=channels)
    rows = kernel.reshape(1, 1, -1, 1).expand(channels, -1, -1, -1)
    x = F.conv2d(x, rows, stride=(down, 1), groups=channels)
    return F.conv2d(x, rows.transpose(2, 3), stride=(1, down), groups=channels)
