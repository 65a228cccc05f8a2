"""StyleGAN2's synthesis network for deployment: the same function as the readable one, with constant weights.

A StyleGAN2 layer is y = act(demod(conv(W * s, x)) + noise + b) with a style s per sample (Karras et al. 2020,
"Analyzing and Improving the Image Quality of StyleGAN", section 2.2). Written like that, every sample has its own
weights. Three identities make the weights constant:

    conv(W * s, x)   = conv(W, s * x)                                         the style scales the input
    demodulation     = rsqrt(s^2 Q^T + eps),  Q[o, i] = sum_k W[o, i, k]^2    a scale of the output, [B, Co]
    gain * lrelu(v)  = lrelu(gain * v)                                        the gain goes into scale, noise and bias

Range safety: with m = max|s| per sample and g = max|W| per layer, t = s / m and V = W / g are one at most, and

    rsqrt(s^2 Q_W^T + eps) * conv(W, s * x)  =  rsqrt(t^2 Q_V^T + eps / (g m)^2) * conv(V, t * x)

holds exactly, eps included: no style, however large, can overflow a half-precision convolution.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..generators import GeneratorConfig
from ..generators.ops import DEMODULATION_EPS, LRELU_GAIN, fir_kernel, upsample_image
from ..kernels.reference import modconv_epilogue
from .fused_styles import Weights

Upsample = Literal["transposed", "polyphase"]
BakedNoise = Literal["const", "none"]

SMALLEST_PEAK = 1e-12  # stands in for max|s| of styles that are all zero: t is zero too, noise and bias remain


class FusedStyleGAN2Synthesis(nn.Module):
    """The styles of :class:`~.fused_styles.FusedStyles` to images [B, 3, R, R]; ``noise`` and ``upsample`` baked in."""

    const: Tensor

    def __init__(self, weights: Weights, config: GeneratorConfig, *, upsample: Upsample, noise: BakedNoise) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("const", weights["synthesis.b4.const"].float()[None])
        for resolution in config.resolutions:
            block = FusedBlock(weights, f"synthesis.b{resolution}", upsample, noise, config.conv_clamp)
            self.add_module(f"b{resolution}", block)

    def blocks(self) -> Iterator[FusedBlock]:
        """From 4 px to the image's size."""
        for resolution in self.config.resolutions:
            yield cast(FusedBlock, self.get_submodule(f"b{resolution}"))

    def forward(self, styles: tuple[Tensor, ...]) -> Tensor:
        """One image per row of the styles."""
        remaining = iter(styles)
        x: Tensor = self.const
        image: Tensor | None = None
        for block in self.blocks():
            x, image = block(x, image, remaining)
        assert image is not None
        return image


class FusedBlock(nn.Module):
    """One resolution: conv0 doubles the size (absent at 4 px), conv1, and toRGB adds to the up-sampled image."""

    def __init__(
        self, weights: Weights, prefix: str, upsample: Upsample, noise: BakedNoise, clamp: float | None
    ) -> None:
        super().__init__()
        self.conv0: FusedConv | None = None
        if f"{prefix}.conv0.weight" in weights:
            self.conv0 = FusedConv(weights, f"{prefix}.conv0", upsample, noise, clamp)
        self.conv1 = FusedConv(weights, f"{prefix}.conv1", None, noise, clamp)
        self.torgb = FusedToRGB(weights[f"{prefix}.torgb.weight"], weights[f"{prefix}.torgb.bias"], clamp)

    def forward(self, x: Tensor, image: Tensor | None, styles: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
        if self.conv0 is not None:
            x = self.conv0(x, next(styles))
        x = self.conv1(x, next(styles))
        rgb = self.torgb(x, next(styles))
        return x, rgb if image is None else upsample_image(image) + rgb


class FusedConv(nn.Module):
    """A modulated 3x3 convolution with constant weights, then noise, bias, leaky ReLU and clamp.

    ``upsample`` None keeps the size; otherwise the output is twice as large, by one of two forms of the same function:
    "transposed" (stride-2 transposed convolution, then the FIR) does a quarter of the multiplications of "polyphase"
    (one ordinary convolution to 4 Co channels, then depth to space), which in turn never stores the unfiltered image.
    "transposed" is the default because ONNX Runtime 1.32 runs the demo's teacher 1.6 times and its student 1.3 times as
    fast with it (64 px, batch 1, one thread, median of interleaved calls on a two-core x86 machine).
    """

    weight: Tensor
    energy: Tensor
    bias: Tensor
    noise: Tensor | None
    fir: Tensor

    def __init__(
        self, weights: Weights, prefix: str, upsample: Upsample | None, noise: BakedNoise, clamp: float | None
    ) -> None:
        super().__init__()
        weight = weights[f"{prefix}.weight"]  # [Co, Ci, 3, 3]
        peak = float(weight.abs().max()) or 1.0
        weight = weight / peak
        self.upsample, self.clamp = upsample, clamp
        # sqrt(2) rsqrt(q + e) = rsqrt((q + e) / 2): the gain of the activation, moved in front of it.
        self.register_buffer("energy", (weight.square().sum(dim=(2, 3)).T / LRELU_GAIN**2).float())  # [Ci, Co]
        self.root_eps = math.sqrt(DEMODULATION_EPS) / (peak * LRELU_GAIN)
        self.register_buffer("weight", _laid_out(weight, upsample).float().contiguous())
        self.register_buffer("bias", (weights[f"{prefix}.bias"] * LRELU_GAIN).float())
        fixed = weights[f"{prefix}.noise_const"] * weights[f"{prefix}.noise_strength"] * LRELU_GAIN
        self.register_buffer("noise", fixed.float() if noise == "const" else None)
        if upsample == "transposed":
            self.register_buffer("fir", fir_kernel(gain=4.0).expand(weight.shape[0], 1, 4, 4).contiguous())

    def forward(self, x: Tensor, styles: Tensor) -> Tensor:
        peak = styles.abs().amax(dim=1, keepdim=True).clamp_min(SMALLEST_PEAK)  # [B, 1]
        styles = styles / peak
        scale = torch.rsqrt(styles.square() @ self.energy + (self.root_eps / peak).square())  # [B, Co]
        y = self.convolve(x * styles[:, :, None, None])
        return modconv_epilogue(y, scale, self.noise, self.bias, clamp=self.clamp)

    def convolve(self, x: Tensor) -> Tensor:
        """The convolution alone: [B, Ci, H, W] to [B, Co, H, W], or twice the size when this layer up-samples."""
        if self.upsample is None:
            return F.conv2d(x, self.weight, padding=1)
        if self.upsample == "polyphase":
            return F.pixel_shuffle(F.conv2d(x, self.weight, padding=1), 2)
        y = F.conv_transpose2d(x, self.weight, stride=2)  # [B, Co, 2H + 1, 2W + 1]
        return F.conv2d(y, self.fir, padding=1, groups=y.shape[1])


class FusedToRGB(nn.Module):
    """1x1 modulated convolution to colours. It is not demodulated, so the styles' peak is multiplied back."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, clamp: float | None) -> None:
        super().__init__()
        self.clamp = clamp
        self.register_buffer("weight", weight.float())
        self.register_buffer("bias", bias.float())

    def forward(self, x: Tensor, styles: Tensor) -> Tensor:
        peak = styles.abs().amax(dim=1, keepdim=True).clamp_min(SMALLEST_PEAK)
        y = F.conv2d(x * (styles / peak)[:, :, None, None], self.weight)
        y = y * peak[:, :, None, None] + self.bias[:, None, None]
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)


def polyphase_weight(weight: Tensor) -> Tensor:
    """Fold the FIR into an up-sampling convolution: [Co, Ci, 3, 3] to [4 Co, Ci, 3, 3], phases for depth-to-space.

    The transposed convolution followed by the FIR f is one transposed convolution with h = f * k, 6x6. Per axis, with
    h[n] for n = -2..3, output 2q + p is the sum over i of x[i] h[2 (q - i) + p]: for each phase p a 3-tap filter, whose
    cross-correlation weight number a (it meets x[q + a - 1]) is h[2 - 2a + p]. Channel 4 o + 2 p + p' holds phase
    (p, p') of output o, the order of ``pixel_shuffle``.
    """
    out, fan_in = weight.shape[:2]
    fir = fir_kernel(gain=4.0).to(weight)[None, None]
    full = F.conv2d(weight.reshape(-1, 1, 3, 3), fir, padding=3).reshape(out, fan_in, 6, 6)  # h[n] at index n + 2
    phases = [full[:, :, [4 + p, 2 + p, p]][:, :, :, [4 + q, 2 + q, q]] for p in (0, 1) for q in (0, 1)]
    return torch.stack(phases, dim=1).reshape(4 * out, fan_in, 3, 3)


def _laid_out(weight: Tensor, upsample: Upsample | None) -> Tensor:
    if upsample == "polyphase":
        return polyphase_weight(weight)
    return weight.transpose(0, 1) if upsample == "transposed" else weight
