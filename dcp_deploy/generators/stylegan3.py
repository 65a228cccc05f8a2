"""StyleGAN3's synthesis network (Karras et al. 2021, "Alias-Free Generative Adversarial Networks").

It has sine waves instead of a learned constant, and neither noise nor skip images. Every layer works on a signal with a
known band limit: its leaky ReLU stands between an up-sampling and a down-sampling filter. Tensors have NVIDIA's names,
but layers are ``L0``, ``L1``, ... without the size and width that NVIDIA appends, because pruning changes the width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .config import GeneratorConfig
from .mapping import Dense, check_ws
from .ops import bias_act, downsample2d, modulated_conv2d, upsample2d
from .schedule import LayerSpec, layer_specs, lowpass
from .stylegan2 import NoiseMode, NoiseSource


class SynthesisInput(nn.Module):
    """Fourier features, rotated and shifted by the style, then mixed by a matrix: w [B, w_dim] -> [B, C, S, S]."""

    transform: Tensor
    freqs: Tensor
    phases: Tensor

    def __init__(self, features: int, channels: int, *, w_dim: int, size: int, rate: int, bandwidth: float) -> None:
        super().__init__()
        self.size, self.rate, self.bandwidth = size, rate, bandwidth
        self.weight = nn.Parameter(torch.randn(channels, features))
        self.affine = Dense(w_dim, 4)
        with torch.no_grad():  # neither rotation nor shift, for any style
            self.affine.weight.zero_()
            self.affine.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        angle, radius = 2 * math.pi * torch.rand(features), bandwidth * torch.rand(features).sqrt()
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1))
        self.register_buffer("phases", torch.rand(features) - 0.5)

    def forward(self, w: Tensor) -> Tensor:
        waves = fourier_features(
            self.affine(w), self.transform, self.freqs, self.phases, self.size, self.rate, self.bandwidth
        )
        return torch.einsum("bfhw,cf->bchw", waves, self.weight / math.sqrt(self.weight.shape[1]))


def fourier_features(
    motion: Tensor, transform: Tensor, freqs: Tensor, phases: Tensor, size: int, rate: int, bandwidth: float
) -> Tensor:
    """Return sine waves [B, F, size, size] of frequencies [F, 2] and phases [F], moved like a picture.

    ``motion`` [B, 4] is (cosine, sine, x, y), normalised here by its first two numbers. ``transform`` [3, 3] is the
    inverse of a user's transform of the image and applies first. Waves fade out linearly between ``bandwidth`` and the
    Nyquist frequency ``rate / 2``.
    """
    motion = motion / motion[:, :2].norm(dim=1, keepdim=True)
    cosine, sine, x, y = motion.unbind(dim=1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    rotation = torch.stack([cosine, -sine, zero, sine, cosine, zero, zero, zero, one], dim=1).reshape(-1, 3, 3)
    shift = torch.stack([one, zero, -x, zero, one, -y, zero, zero, one], dim=1).reshape(-1, 3, 3)
    matrix = rotation @ shift @ transform
    moved = freqs @ matrix[:, :2, :2]  # [B, F, 2]
    moved_phases = phases + (freqs @ matrix[:, :2, 2:])[:, :, 0]
    amplitude: Tensor = (1 - (moved.norm(dim=2) - bandwidth) / (rate / 2 - bandwidth)).clamp(0, 1)
    grid = (torch.arange(size, device=freqs.device) + 0.5 - size / 2) / rate
    turns = moved[:, :, 0, None, None] * grid + moved[:, :, 1, None, None] * grid[:, None]
    return amplitude[:, :, None, None] * torch.sin(2 * math.pi * (turns + moved_phases[..., None, None]))


class SynthesisLayer(nn.Module):
    """Modulated convolution, then the filtered leaky ReLU; toRGB has neither demodulation nor filters."""

    magnitude_ema: Tensor
    up_filter: Tensor | None
    down_filter: Tensor | None

    def __init__(self, fan_in: int, fan_out: int, spec: LayerSpec, *, w_dim: int, clamp: float | None) -> None:
        super().__init__()
        self.spec, self.conv_clamp = spec, clamp
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in, spec.kernel, spec.kernel))
        self.bias = nn.Parameter(torch.zeros(fan_out))
        self.affine = Dense(w_dim, fan_in, bias_init=1.0)
        self.register_buffer("magnitude_ema", torch.ones([]))
        up = (spec.up_taps, spec.in_cutoff, spec.in_half_width, False)
        down = (spec.down_taps, spec.out_cutoff, spec.out_half_width, spec.radial)
        for name, (taps, cutoff, half_width, radial) in (("up_filter", up), ("down_filter", down)):
            values = lowpass(taps, cutoff, half_width, spec.tmp_rate, radial=radial) if taps > 1 else None
            self.register_buffer(name, None if values is None else torch.as_tensor(values).to(torch.float32))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Return [B, Co, S', S'] for x [B, Ci, S, S] and w [B, w_dim]."""
        x = x * self.magnitude_ema.rsqrt()  # the mean square of the input during training
        styles = self.affine(w)
        if self.spec.torgb:
            y = modulated_conv2d(x, self.weight, styles / math.sqrt(self.weight.shape[1]), demodulate=False)
            y = y + self.bias[:, None, None]
            return y if self.conv_clamp is None else y.clamp(-self.conv_clamp, self.conv_clamp)
        # Demodulation cancels both norms except for its epsilon. The paper normalises styles over the whole batch; this
        # normalises them per sample, which gives the same images, independent of the rest of the batch.
        weight = self.weight * self.weight.square().mean(dim=(1, 2, 3), keepdim=True).rsqrt()
        styles = styles * styles.square().mean(dim=1, keepdim=True).rsqrt()
        y = modulated_conv2d(x, weight, styles, padding=self.spec.kernel - 1)
        return self.filtered_lrelu(y)

    def filtered_lrelu(self, y: Tensor) -> Tensor:
        """Apply bias, up-sampling, leaky ReLU with gain and clamp at the higher rate, and down-sampling."""
        spec = self.spec
        y = y + self.bias.to(y.dtype)[:, None, None]
        if self.up_filter is not None:
            y = upsample2d(y, self.up_filter, spec.up, spec.padding)
        y = bias_act(y, torch.zeros_like(self.bias), self.conv_clamp)
        return y if self.down_filter is None else downsample2d(y, self.down_filter, spec.down)


class StyleGAN3Synthesis(nn.Module):
    """Maps ``ws`` to images: Fourier features, 14 layers of growing bandwidth, and toRGB."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        assert config.layout is not None
        self.config = config
        specs = layer_specs(config.resolution, config.layout)
        first = specs[0]
        self.input = SynthesisInput(
            config.layout.fourier_features,
            config.widths[0],
            w_dim=config.w_dim,
            size=first.in_size,
            rate=first.in_rate,
            bandwidth=first.in_cutoff,
        )
        for spec, fan_in, fan_out in zip(specs, config.widths, (*config.widths[1:], 3), strict=True):
            layer = SynthesisLayer(fan_in, fan_out, spec, w_dim=config.w_dim, clamp=config.conv_clamp)
            self.add_module(spec.name, layer)

    def layers(self) -> list[tuple[str, SynthesisLayer]]:
        """Return ("L0", layer), ("L1", layer), ...; the last layer is toRGB."""
        return [(name, layer) for name, layer in self.named_children() if isinstance(layer, SynthesisLayer)]

    def scored(self) -> list[tuple[str, SynthesisLayer]]:
        """Return the layers with the input channels ``config.widths``: all of them."""
        return self.layers()

    def features(
        self,
        ws: Tensor,
        *,
        noise: NoiseMode = "const",
        generator: NoiseSource | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return images [B, 3, R, R] and the outputs of the input and all layers before toRGB: "input", "L0", ...

        ``dtype`` is that of convolutions, filters and features, by default that of the weights. Images and styles
        always have that of the weights.
        """
        check_ws(ws, self.config)
        names = [name for name, _ in self.layers()]
        outputs = self.features_until(ws, names[-1], dtype=dtype)
        assert self.config.layout is not None
        return outputs.pop(names[-1]) * self.config.layout.output_scale, outputs

    def features_until(
        self,
        ws: Tensor,
        last: str,
        *,
        noise: NoiseMode = "const",
        generator: NoiseSource | None = None,
        dtype: torch.dtype | None = None,
    ) -> dict[str, Tensor]:
        """Return the outputs up to layer ``last``."""
        x = self.input(ws[:, 0])
        x = x.to(dtype or x.dtype)
        outputs = {"input": x}
        for slot, (name, layer) in enumerate(self.layers(), start=1):
            x = outputs[name] = layer(x, ws[:, slot])
            if name == last:
                break
        return outputs

    def forward(self, ws: Tensor, *, noise: NoiseMode = "const", generator: NoiseSource | None = None) -> Tensor:
        """Return images [B, 3, R, R], nominally in [-1, 1] and not clamped, for ws [B, num_ws, w_dim].

        ``noise`` and ``generator`` have no effect: StyleGAN3 has no noise. Different codes in the slots mix styles.
        """
        return self.features(ws)[0]
