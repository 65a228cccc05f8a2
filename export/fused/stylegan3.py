"""StyleGAN3's synthesis network for deployment: the same function as the readable one, with constant weights.

A layer is y = down(clamp(sqrt(2) lrelu(up(d g conv(Wn * sn, x) + b)))) (Karras et al. 2021, "Alias-Free Generative
Adversarial Networks", section 3.2) with Wn the weight scaled to a mean square of one per output, sn the style s scaled
likewise, d[o] = rsqrt(sum_i (Wn[o, i] sn[i])^2 + eps), and g the gain of the input, known after training.

With p = max|Wn| per layer, V = Wn / p, m = max|s| per sample, t = s / m, and C input channels, all of

    d g conv(Wn, sn * x) = g conv(V, t * x) rsqrt(sum_i t[i]^2 E[o, i]),    E[o, i] = sum_k V[o, i, k]^2 + eps / (C p^2)

holds exactly. The style's norm cancels except beside eps, where sum s^2 / C takes its place; so eps becomes part of a
constant, and no style, however large, can overflow a half-precision convolution. E and b also contain g and the gain
sqrt(2), which commutes with the up-sampling and the leaky ReLU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...generators import GeneratorConfig
from ...generators.ops import DEMODULATION_EPS, LRELU_GAIN
from ...generators.schedule import LayerSpec, layer_specs
from .filtered_lrelu import TiledLeakyReLU
from .stylegan2 import FusedToRGB
from .styles import Weights

TINY = 1e-30  # far below any sum of a style's squares, and above zero: a style of zeros leaves the bias


class FusedStyleGAN3Synthesis(nn.Module):
    """The network from the styles of :class:`~.styles.FusedStyles` to images [B, 3, R, R].

    ``storage`` is the type of a convolution's weight, input and output by layer ("L0", "L1", ...), float32 where left
    out. The filters around the leaky ReLU read and write float32.
    """

    def __init__(self, weights: Weights, config: GeneratorConfig, *, storage: Mapping[str, torch.dtype]) -> None:
        super().__init__()
        assert config.layout is not None
        *layers, last = layer_specs(config.resolution, config.layout)
        self.input = FusedInput(weights, layers[0])
        self.names = [spec.name for spec in layers]
        for spec in layers:
            kept = storage.get(spec.name, torch.float32)
            self.add_module(spec.name, FusedLayer(weights, f"synthesis.{spec.name}", spec, config.conv_clamp, kept))
        # The last layer's input gain and the images' scale r are folded in: r clamp(v, c) = clamp(r v, r c).
        prefix, scale = f"synthesis.{last.name}", config.layout.output_scale
        gain = weights[f"{prefix}.magnitude_ema"].rsqrt() * scale
        clamp = None if config.conv_clamp is None else config.conv_clamp * scale
        self.torgb = FusedToRGB(weights[f"{prefix}.weight"] * gain, weights[f"{prefix}.bias"] * scale, clamp)

    def forward(self, styles: tuple[Tensor, ...]) -> Tensor:
        """Return one image per row of the styles."""
        motion, *modulation, colours = styles
        x = self.input(motion)
        for name, style in zip(self.names, modulation, strict=True):
            x = cast(FusedLayer, self.get_submodule(name))(x, style)
        return cast(Tensor, self.torgb(x, colours))


class FusedInput(nn.Module):
    """Sine waves, rotated and shifted by the motion (cosine, sine, x, y), and mixed: [B, 4] to [B, C, S, S].

    A wave's phase in turns is a[column] + b[row], so sin(a + b) = sin(b) cos(a) + cos(b) sin(a) needs sines of
    [B, F, S] instead of [B, F, S, S]. Whole turns are subtracted first, since a backend's sine may be inaccurate far
    from zero. The phases are sums of products and not a matrix product, which a GPU might round to 10 bits.
    """

    frequency: Tensor
    along_cosine: Tensor
    along_sine: Tensor
    along_shift: Tensor
    phases: Tensor
    grid: Tensor
    weight: Tensor

    def __init__(self, weights: Weights, spec: LayerSpec) -> None:
        super().__init__()
        freqs, transform = weights["synthesis.input.freqs"], weights["synthesis.input.transform"]
        weight = weights["synthesis.input.weight"]
        self.bandwidth, self.rate = spec.in_cutoff, spec.in_rate
        quarter = torch.stack([freqs[:, 1], -freqs[:, 0]], dim=1)
        # Moved frequencies and phases are linear in cosine, sine and shift, and the user's transform is a constant.
        self.register_buffer("frequency", freqs.T.float().contiguous())  # [2, F]
        self.register_buffer("along_cosine", (freqs @ transform[:2]).T.float().contiguous())  # [3, F]
        self.register_buffer("along_sine", (quarter @ transform[:2]).T.float().contiguous())
        self.register_buffer("along_shift", transform[2, :, None].float())
        self.register_buffer("phases", weights["synthesis.input.phases"].float())
        grid = (torch.arange(spec.in_size, dtype=torch.float64) + 0.5 - spec.in_size / 2) / spec.in_rate
        self.register_buffer("grid", grid.float())
        self.register_buffer("weight", (weight / math.sqrt(weight.shape[1]))[:, :, None, None].float())

    def forward(self, motion: Tensor) -> Tensor:
        across, down, phase = self.moved_waves(motion)
        amplitude = 1 - ((across.square() + down.square()).sqrt() - self.bandwidth) / (self.rate / 2 - self.bandwidth)
        amplitude = amplitude.clamp(0, 1)[:, :, None]
        turns_x = across[:, :, None] * self.grid  # [B, F, S]
        turns_y = down[:, :, None] * self.grid + phase[:, :, None]
        sine_x, cosine_x = _sine_cosine(turns_x)
        sine_y, cosine_y = _sine_cosine(turns_y)
        sine_y, cosine_y = (sine_y * amplitude)[..., None], (cosine_y * amplitude)[..., None]
        waves = sine_y * cosine_x[:, :, None] + cosine_y * sine_x[:, :, None]
        return F.conv2d(waves, self.weight)

    def moved_waves(self, motion: Tensor) -> tuple[Tensor, ...]:
        """Return the frequencies along x and y in turns per unit and the phase in turns, each [B, F]."""
        motion = motion / motion[:, :2].abs().amax(dim=1, keepdim=True).clamp_min(TINY)
        motion = motion / motion[:, :2].square().sum(dim=1, keepdim=True).clamp_min(TINY).sqrt()
        # Not by chunk: ONNX can split into a number of parts only from opset 18 on.
        cosine, sine, x, y = (motion[:, i : i + 1] for i in range(4))
        fx, fy = self.frequency.unbind(0)
        shift = x * (cosine * fx + sine * fy) + y * (cosine * fy - sine * fx)
        moved = cosine[..., None] * self.along_cosine + sine[..., None] * self.along_sine
        across, down, phase = (moved - shift[:, None] * self.along_shift).unbind(1)
        return across, down, self.phases + phase


def _sine_cosine(turns: Tensor) -> tuple[Tensor, Tensor]:
    radians = (turns - turns.round()) * (2 * math.pi)
    return radians.sin(), radians.cos()


class FusedLayer(nn.Module):
    """One modulated convolution with bias, and its filtered leaky ReLU."""

    def __init__(
        self, weights: Weights, prefix: str, spec: LayerSpec, clamp: float | None, storage: torch.dtype
    ) -> None:
        super().__init__()
        self.conv = FusedConv(weights, prefix, storage)
        self.lrelu = TiledLeakyReLU(spec, weights[f"{prefix}.up_filter"], weights[f"{prefix}.down_filter"], clamp)

    def forward(self, x: Tensor, styles: Tensor) -> Tensor:
        return cast(Tensor, self.lrelu(self.conv(x, styles)))


class FusedConv(nn.Module):
    """A modulated convolution with constant weights, then bias: [B, Ci, S, S] to sqrt(2) y [B, Co, S + k - 1, ...]."""

    weight: Tensor
    energy: Tensor
    bias: Tensor

    def __init__(self, weights: Weights, prefix: str, storage: torch.dtype) -> None:
        super().__init__()
        weight = weights[f"{prefix}.weight"]  # [Co, Ci, k, k]
        weight = weight * weight.square().mean(dim=(1, 2, 3), keepdim=True).clamp_min(TINY).rsqrt()
        peak = weight.abs().max()
        weight = weight / peak
        energy = weight.square().sum(dim=(2, 3)).T + DEMODULATION_EPS / (weight.shape[1] * peak**2)  # [Ci, Co]
        energy = energy * weights[f"{prefix}.magnitude_ema"] / LRELU_GAIN**2
        self.register_buffer("weight", weight.to(storage).contiguous())
        self.register_buffer("energy", energy.float().contiguous())
        self.register_buffer("bias", (weights[f"{prefix}.bias"] * LRELU_GAIN).float())

    def forward(self, x: Tensor, styles: Tensor) -> Tensor:
        styles = styles / styles.abs().amax(dim=1, keepdim=True).clamp_min(TINY)
        scale = torch.rsqrt((styles.square() @ self.energy).clamp_min(TINY))  # [B, Co]
        x = (x * styles[:, :, None, None]).to(self.weight.dtype)
        y = F.conv2d(x, self.weight, padding=self.weight.shape[-1] - 1).float()
        return y * scale[:, :, None, None] + self.bias[:, None, None]
