"""StyleGAN2's synthesis network for deployment: the same function as the readable one, with constant weights.

A StyleGAN2 layer is y = act(demod(conv(W * s, x)) + noise + b) with a style s per sample (Karras et al. 2020,
"Analyzing and Improving the Image Quality of StyleGAN", section 2.2). In this formula every sample has its own weights.
Three identities make the weights constant:

    conv(W * s, x)   = conv(W, s * x)                                         the style scales the input
    demodulation     = rsqrt(s^2 Q^T + eps),  Q[o, i] = sum_k W[o, i, k]^2    a scale of the output, [B, Co]
    gain * lrelu(v)  = lrelu(gain * v)                                        the gain goes into scale, noise and bias

Range safety: with m = max|s| per sample and g = max|W| per layer, t = s / m and V = W / g are at most one, and

    rsqrt(s^2 Q_W^T + eps) * conv(W, s * x)  =  rsqrt(t^2 Q_V^T + eps / (g m)^2) * conv(V, t * x)

holds exactly, eps included: no style, however large, can overflow a half-precision convolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...generators import GeneratorConfig
from ...generators.ops import DEMODULATION_EPS, LRELU_GAIN, fir_kernel
from ...kernels import operators, reference
from .styles import Weights

Upsample = Literal["transposed", "polyphase"]
NoiseForm = Literal["const", "none", "input"]


class Operators(NamedTuple):
    """The operations around the convolutions; their signatures are in :mod:`...kernels.reference`."""

    modconv_epilogue: Callable[..., Tensor]
    fir_epilogue: Callable[..., Tensor]
    to_rgb: Callable[..., Tensor]


KERNELS = Operators(operators.modconv_epilogue, operators.fir_epilogue, operators.to_rgb)
PLAIN = Operators(reference.modconv_epilogue, reference.fir_epilogue, reference.to_rgb)
"""Plain torch: a program of torch.export then has none of our operators."""

SMALLEST_PEAK = 1e-12  # stands in for max|s| of styles that are all zero: t is zero too, noise and bias remain


class NormalStyles(NamedTuple):
    """Styles [B, C] as ``directions`` x ``peak``: directions [B, C] are at most one, peak [B, 1] is the largest."""

    directions: Tensor
    peak: Tensor

    def scaling(self, x: Tensor) -> Tensor:
        """Multiply each channel of x [B, C, H, W] by its direction, and round to the type of x."""
        return (x * self.directions[:, :, None, None]).to(x.dtype)


def normalise(styles: Tensor) -> NormalStyles:
    """Split [B, C] into directions and peak."""
    peak = styles.abs().amax(dim=1, keepdim=True).clamp_min(SMALLEST_PEAK)
    return NormalStyles(styles / peak, peak)


class FusedStyleGAN2Synthesis(nn.Module):
    """The network from the styles of :class:`~.styles.FusedStyles` to float32 [B, 3, H, W] or uint8 [B, H, W, 3].

    ``upsample`` is the method of every conv0. ``storage`` is the type of a convolution's weight, input and output, by
    layer ("b8.conv0"), float32 where left out.
    """

    const: Tensor

    def __init__(
        self,
        weights: Weights,
        config: GeneratorConfig,
        *,
        upsample: Upsample,
        noise: NoiseForm,
        storage: Mapping[str, torch.dtype],
        as_bytes: bool,
    ) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("const", weights["synthesis.b4.const"].float()[None])
        for resolution in config.resolutions:
            name = f"b{resolution}"
            convs: dict[str, FusedConv] = {}
            for layer in (layer for layer in conv_layers(config) if layer.startswith(f"{name}.")):
                kept = storage.get(layer, torch.float32)
                method = upsample if layer.endswith("conv0") else None
                convs[layer] = FusedConv(weights, f"synthesis.{layer}", method, noise, config, kept)
            last = as_bytes and resolution == config.resolution
            weight, bias = weights[f"synthesis.{name}.torgb.weight"], weights[f"synthesis.{name}.torgb.bias"]
            torgb = FusedToRGB(weight, bias, config.conv_clamp, as_bytes=last)
            self.add_module(name, FusedBlock(convs.get(f"{name}.conv0"), convs[f"{name}.conv1"], torgb))

    def blocks(self) -> Iterator[FusedBlock]:
        """Yield the blocks from the constant to the image."""
        for resolution in self.config.resolutions:
            yield cast(FusedBlock, self.get_submodule(f"b{resolution}"))

    def forward(self, styles: tuple[Tensor, ...], noise: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return one image per row of the styles. ``noise`` is [B, 1, H, W] by layer (see :class:`FusedConv`)."""
        remaining = iter(styles)
        x: Tensor = self.const
        image: Tensor | None = None
        for resolution, block in zip(self.config.resolutions, self.blocks(), strict=True):
            maps = [None if noise is None else noise.get(f"b{resolution}.{conv}") for conv in ("conv0", "conv1")]
            x, image = block(x, image, remaining, *maps)
        assert image is not None
        return image


def conv_layers(config: GeneratorConfig) -> list[str]:
    """Return the 3x3 convolutions in the order of computation: b4.conv1, b8.conv0, b8.conv1, ... Each conv0 up-samples.

    The list is empty for a StyleGAN3.
    """
    if config.layout is not None:
        return []
    return [f"b{r}.{conv}" for r in config.resolutions for conv in ("conv0", "conv1") if r > 4 or conv == "conv1"]


class FusedBlock(nn.Module):
    """One resolution: conv0 doubles the size (absent in ``b4``), conv1, and toRGB adds to the up-sampled image.

    Only conv1 reads conv0's output, so its epilogue multiplies by conv1's styles. toRGB and the next block read conv1's
    output, so that is not multiplied.
    """

    def __init__(self, conv0: FusedConv | None, conv1: FusedConv, torgb: FusedToRGB) -> None:
        super().__init__()
        self.conv0, self.conv1, self.torgb = conv0, conv1, torgb

    def forward(
        self,
        x: Tensor,
        image: Tensor | None,
        styles: Iterator[Tensor],
        noise0: Tensor | None = None,
        noise1: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        if self.conv0 is None:
            second = normalise(next(styles))
            x = second.scaling(x)
        else:
            first, second = normalise(next(styles)), normalise(next(styles))
            x = self.conv0(first.scaling(x), first, noise0, second.directions)
        x = self.conv1(x, second, noise1)
        return x, self.torgb(x, next(styles), image)


class FusedConv(nn.Module):
    """A modulated 3x3 convolution with constant weights, then noise, bias, leaky ReLU and clamp.

    With ``upsample`` None the size stays. Otherwise the output is twice as large, by one of two methods for the same
    function. "transposed" (stride-2 transposed convolution, then the FIR) needs a quarter of the multiplications of
    "polyphase" (one ordinary convolution to 4 Co channels, then depth to space), which never stores the unfiltered
    image. "transposed" is the default because ONNX Runtime 1.32 runs the demo's teacher 1.6 times and its student 1.3
    times as fast with it (64 px, batch 1, one thread, median of interleaved calls on a two-core x86 machine).

    ``noise`` "const" adds the stored map times the learned strength. "input" adds the map passed to :meth:`forward`, of
    standard deviation 1, times that strength. "none" adds nothing.
    """

    weight: Tensor
    energy: Tensor
    bias: Tensor
    noise: Tensor | None
    strength: Tensor | None
    operators = KERNELS

    def __init__(
        self,
        weights: Weights,
        prefix: str,
        upsample: Upsample | None,
        noise: NoiseForm,
        config: GeneratorConfig,
        storage: torch.dtype,
    ) -> None:
        super().__init__()
        weight = weights[f"{prefix}.weight"]  # [Co, Ci, 3, 3]
        peak = float(weight.abs().max()) or 1.0
        weight = weight / peak
        self.upsample, self.clamp = upsample, config.conv_clamp
        # sqrt(2) rsqrt(q + e) = rsqrt((q + e) / 2): the gain of the activation, moved in front of it.
        self.register_buffer("energy", (weight.square().sum(dim=(2, 3)).T / LRELU_GAIN**2).float())  # [Ci, Co]
        self.root_eps = math.sqrt(DEMODULATION_EPS) / (peak * LRELU_GAIN)
        self.register_buffer("weight", _laid_out(weight, upsample).to(storage).contiguous())
        self.register_buffer("bias", (weights[f"{prefix}.bias"] * LRELU_GAIN).float())
        strength = weights[f"{prefix}.noise_strength"] * LRELU_GAIN
        fixed = weights[f"{prefix}.noise_const"] * strength
        self.register_buffer("noise", fixed.float() if noise == "const" else None)
        self.register_buffer("strength", strength.float() if noise == "input" else None)

    def forward(
        self, x: Tensor, styles: NormalStyles, noise: Tensor | None = None, next_scale: Tensor | None = None
    ) -> Tensor:
        """Apply the layer to x [B, Ci, H, W] times its directions; multiply the result by ``next_scale`` [B, Co]."""
        if self.strength is None:
            added = self.noise
        else:
            if noise is None:
                raise ValueError("this generator takes its noise as an input, one map per layer")
            added = noise * self.strength
        x = x.to(self.weight.dtype)
        scale = torch.rsqrt(styles.directions.square() @ self.energy + (self.root_eps / styles.peak).square())
        if self.upsample == "transposed":
            y = F.conv_transpose2d(x, self.weight, stride=2)  # [B, Co, 2H + 1, 2W + 1]
            return self.operators.fir_epilogue(y, scale, added, self.bias, next_scale, self.clamp)
        y = F.conv2d(x, self.weight, padding=1)
        shuffle = self.upsample == "polyphase"
        return self.operators.modconv_epilogue(y, scale, added, self.bias, next_scale, self.clamp, shuffle)


class FusedToRGB(nn.Module):
    """1x1 modulated convolution to RGB, added to the image so far. It sums in float32, so styles may have any size."""

    weight: Tensor
    bias: Tensor
    operators = KERNELS

    def __init__(self, weight: Tensor, bias: Tensor, clamp: float | None, *, as_bytes: bool = False) -> None:
        super().__init__()
        self.clamp, self.as_bytes = clamp, as_bytes
        self.register_buffer("weight", weight.flatten(1).float())  # [3, C]
        self.register_buffer("bias", bias.float())

    def forward(self, x: Tensor, styles: Tensor, image: Tensor | None = None) -> Tensor:
        return self.operators.to_rgb(x, styles, self.weight, self.bias, image, self.clamp, self.as_bytes)


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
