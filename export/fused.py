"""The deployable generator: the same function as the readable one, with constant weights.

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
from collections.abc import Iterator, Mapping
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError
from ..generators import Generator, GeneratorConfig
from ..generators.ops import DEMODULATION_EPS, LRELU_GAIN, fir_kernel, normalize_second_moment, upsample_image
from ..kernels.reference import LEAKY_SLOPE, modconv_epilogue

Upsample = Literal["transposed", "polyphase"]
BakedNoise = Literal["const", "none"]
ImageForm = Literal["float", "uint8"]
Weights = Mapping[str, Tensor]  # a Generator's state dict in float64, so that folding constants costs no precision

SMALLEST_PEAK = 1e-12  # stands in for max|s| of styles that are all zero: t is zero too, noise and bias remain


class FusedGenerator(nn.Module):
    """A Generator rebuilt for deployment; equal to it within fp32 rounding.

    ``forward(z [B, z_dim], psi [B], c [B, c_dim] if conditional)`` draws float32 [B, 3, R, R], not clamped
    (``image="float"``), or uint8 [B, R, R, 3] (``image="uint8"``). ``upsample`` is one of two exact forms, see
    :func:`polyphase_weight`. It keeps constants only: nothing in it trains, and ``generator`` is copied, not
    referenced. Raises UsageError for an unknown option.
    """

    const: Tensor

    def __init__(
        self,
        generator: Generator,
        *,
        upsample: Upsample = "transposed",
        noise: BakedNoise = "const",
        image: ImageForm = "float",
    ) -> None:
        super().__init__()
        _require("upsample", upsample, ("transposed", "polyphase"))
        _require("noise", noise, ("const", "none"))
        _require("image", image, ("float", "uint8"))
        self.config = generator.config
        self.image = image
        weights = {key: value.detach().cpu().double() for key, value in generator.state_dict().items()}
        self.mapping = FusedMapping(weights, self.config)
        self.styles = FusedStyles(weights, self.config)
        self.register_buffer("const", weights["synthesis.b4.const"].float()[None])
        for resolution in self.config.resolutions:
            block = FusedBlock(weights, f"synthesis.b{resolution}", upsample, noise, self.config.conv_clamp)
            self.add_module(f"b{resolution}", block)
        self.eval().requires_grad_(False)

    def blocks(self) -> Iterator[FusedBlock]:
        """From 4 px to the image's size."""
        for resolution in self.config.resolutions:
            yield cast(FusedBlock, self.get_submodule(f"b{resolution}"))

    def forward(self, z: Tensor, psi: Tensor, c: Tensor | None = None) -> Tensor:
        """One image per row of z. ``psi`` scales, per row, the distance of w from its mean; 1 leaves it alone."""
        styles = iter(self.styles(self.mapping(z, c), psi))
        x, image = self.const, None
        for block in self.blocks():
            x, image = block(x, image, styles)
        assert image is not None
        return to_uint8(image) if self.image == "uint8" else image


def to_uint8(image: Tensor) -> Tensor:
    """[B, 3, H, W], nominally in [-1, 1], to uint8 [B, H, W, 3]: clip(127.5 x + 128, 0, 255), truncated as NVIDIA's.

    The cast comes last because TensorRT allows uint8 for inputs and outputs, not between operators.
    """
    return (image * 127.5 + 128.0).clamp(0.0, 255.0).permute(0, 2, 3, 1).to(torch.uint8)


# ---- z to styles ----


class FusedMapping(nn.Module):
    """z (and the class) to w [B, w_dim] before truncation. Multipliers and gains are folded into the weights."""

    def __init__(self, weights: Weights, config: GeneratorConfig) -> None:
        super().__init__()
        self.embed: nn.Linear | None = None
        if config.c_dim:
            self.embed = _linear(weights["mapping.embed.weight"], weights["mapping.embed.bias"])
        self.depth = config.mapping_layers
        gain = config.mapping_lr_multiplier * LRELU_GAIN
        for i in range(self.depth):
            layer = _linear(weights[f"mapping.fc{i}.weight"] * gain, weights[f"mapping.fc{i}.bias"] * gain)
            self.add_module(f"fc{i}", layer)

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        x = normalize_second_moment(z)
        if self.embed is not None:
            if c is None:
                raise ValueError(f"this generator is conditional: c must be a [B, {self.embed.in_features}] tensor")
            x = torch.cat([x, normalize_second_moment(self.embed(c))], dim=1)
        for i in range(self.depth):
            x = F.leaky_relu(self.get_submodule(f"fc{i}")(x), LEAKY_SLOPE)
        return x


class FusedStyles(nn.Module):
    """The styles of every layer from one matrix product.

    Truncation is linear in w, so psi enters after the product. With A, b all affine layers stacked:
    A (avg + psi (w - avg)) + b = psi (A w - A avg) + (A avg + b).
    """

    base: Tensor

    def __init__(self, weights: Weights, config: GeneratorConfig) -> None:
        super().__init__()
        matrices, biases = [], []
        for resolution in config.resolutions:
            for layer in ("conv1", "torgb") if resolution == 4 else ("conv0", "conv1", "torgb"):
                prefix = f"synthesis.b{resolution}.{layer}.affine"
                matrix, bias = weights[f"{prefix}.weight"], weights[f"{prefix}.bias"]
                # Equalised learning rate of toRGB sits on its styles, as 1 / sqrt(C).
                gain = 1 / math.sqrt(len(bias)) if layer == "torgb" else 1.0
                matrices.append(matrix * gain)
                biases.append(bias * gain)
        self.widths = [len(bias) for bias in biases]
        stacked = torch.cat(matrices)
        mean = stacked @ weights["mapping.w_avg"] / math.sqrt(config.w_dim)
        self.affine = _linear(stacked, -mean)
        self.register_buffer("base", (mean + torch.cat(biases)).float())

    def forward(self, w: Tensor, psi: Tensor) -> tuple[Tensor, ...]:
        """One [B, C] per layer, in the order of use: conv0 (from 8 px), conv1, torgb of each block."""
        styles = self.affine(w) * psi[:, None] + self.base
        return cast("tuple[Tensor, ...]", styles.split(self.widths, dim=1))


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """x W^T / sqrt(fan_in) + b: StyleGAN's equalised learning rate folded into an ordinary layer."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight = nn.Parameter((weight / math.sqrt(weight.shape[1])).float(), requires_grad=False)
    layer.bias = nn.Parameter(bias.float(), requires_grad=False)
    return layer


# ---- synthesis ----


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
        self.torgb = FusedToRGB(weights, f"{prefix}.torgb", clamp)

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

    def __init__(self, weights: Weights, prefix: str, clamp: float | None) -> None:
        super().__init__()
        self.clamp = clamp
        self.register_buffer("weight", weights[f"{prefix}.weight"].float())
        self.register_buffer("bias", weights[f"{prefix}.bias"].float())

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


def _require(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name} is {value!r}", f"use one of: {', '.join(choices)}")
