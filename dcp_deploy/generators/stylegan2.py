"""StyleGAN2 (Karras et al. 2020) for inference and training: mapping, synthesis with skip connections.

Parameters carry the key names and shapes of NVIDIA's PyTorch networks, so their tensors load as they are.
"""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
from torch import Tensor, nn

from .config import GeneratorConfig
from .ops import bias_act, modulated_conv2d, normalize_second_moment, upsample_image

NoiseMode = Literal["const", "random", "none"]


class Dense(nn.Module):
    """Fully connected layer with equalised learning rate: ``x @ (W * lr / sqrt(in)).T + b * lr``, then lrelu or not."""

    def __init__(
        self, fan_in: int, fan_out: int, *, activate: bool = False, lr_multiplier: float = 1.0, bias_init: float = 0.0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((fan_out,), bias_init / lr_multiplier))
        self.activate = activate
        self.lr_multiplier = lr_multiplier
        self.weight_gain = lr_multiplier / math.sqrt(fan_in)

    def forward(self, x: Tensor) -> Tensor:
        y = x @ (self.weight * self.weight_gain).T
        bias = self.bias * self.lr_multiplier
        return bias_act(y, bias) if self.activate else y + bias


class MappingNetwork(nn.Module):
    """z, and the class if there is one, to the style codes ``ws``."""

    w_avg: Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        lr = config.mapping_lr_multiplier
        if config.c_dim:
            self.embed = Dense(config.c_dim, config.w_dim)
        fan_in = config.z_dim + (config.w_dim if config.c_dim else 0)
        for i in range(config.mapping_layers):
            layer = Dense(fan_in if i == 0 else config.w_dim, config.w_dim, activate=True, lr_multiplier=lr)
            self.add_module(f"fc{i}", layer)
        self.register_buffer("w_avg", torch.zeros(config.w_dim))

    def w(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """The un-truncated code of each latent: [B, z_dim] (and [B, c_dim]) -> [B, w_dim]."""
        x = normalize_second_moment(z)
        if self.config.c_dim:
            if c is None:
                raise ValueError(f"this generator is conditional: c must be a [B, {self.config.c_dim}] tensor")
            x = torch.cat([x, normalize_second_moment(self.embed(c))], dim=1)
        for i in range(self.config.mapping_layers):
            x = self.get_submodule(f"fc{i}")(x)
        return x

    def forward(
        self, z: Tensor, c: Tensor | None = None, *, psi: float | Tensor = 1.0, cutoff: int | None = None
    ) -> Tensor:
        """[B, z_dim] -> ws [B, num_ws, w_dim].

        ``psi`` (a number or one per sample, [B]) pulls the first ``cutoff`` slots (all by default) towards the mean
        code: ``w_avg + psi * (w - w_avg)``. Exactly the identity for the number 1.
        """
        ws = self.w(z, c)[:, None].repeat(1, self.config.num_ws, 1)
        if isinstance(psi, Tensor):
            psi = psi.reshape(-1, 1, 1)
        elif psi == 1:
            return ws
        truncated = self.w_avg + psi * (ws[:, :cutoff] - self.w_avg)
        return truncated if cutoff is None else torch.cat([truncated, ws[:, cutoff:]], dim=1)


class StyledConv(nn.Module):
    """3x3 modulated convolution (up to twice the size when ``up`` is 2), noise, bias, leaky ReLU."""

    noise_const: Tensor

    def __init__(self, fan_in: int, fan_out: int, resolution: int, *, w_dim: int, up: int, clamp: float | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in, 3, 3))
        self.bias = nn.Parameter(torch.zeros(fan_out))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.affine = Dense(w_dim, fan_in, bias_init=1.0)
        self.resolution = resolution
        self.up = up
        self.conv_clamp = clamp

    def noise(self, batch: int, mode: NoiseMode, generator: torch.Generator | None) -> Tensor | None:
        """[r, r] or [B, 1, r, r], shared by all channels; None for mode "none"."""
        if mode == "none":
            return None
        if mode == "const":
            return self.noise_const * self.noise_strength
        if mode != "random":
            raise ValueError(f"noise must be 'const', 'random' or 'none', got {mode!r}")
        shape = (batch, 1, self.resolution, self.resolution)
        return torch.randn(shape, generator=generator).to(self.noise_const) * self.noise_strength

    def forward(self, x: Tensor, w: Tensor, mode: NoiseMode, generator: torch.Generator | None = None) -> Tensor:
        y = modulated_conv2d(x, self.weight, self.affine(w), up=self.up)
        noise = self.noise(x.shape[0], mode, generator)
        if noise is not None:
            y = y + noise
        return bias_act(y, self.bias, self.conv_clamp)


class ToRGB(nn.Module):
    """1x1 modulated convolution to three channels: no demodulation, no activation, no noise."""

    def __init__(self, fan_in: int, *, w_dim: int, clamp: float | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, fan_in, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))
        self.affine = Dense(w_dim, fan_in, bias_init=1.0)
        self.conv_clamp = clamp

    def styles(self, w: Tensor) -> Tensor:
        """[B, w_dim] -> [B, C]; equalised learning rate sits on the styles here, as 1 / sqrt(C)."""
        return cast(Tensor, self.affine(w)) / math.sqrt(self.weight.shape[1])

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        y = modulated_conv2d(x, self.weight, self.styles(w), demodulate=False) + self.bias[:, None, None]
        return y if self.conv_clamp is None else y.clamp(-self.conv_clamp, self.conv_clamp)


class SynthesisBlock(nn.Module):
    """One resolution: the constant (at 4 px) or an up-sampling conv0, then conv1 and toRGB."""

    def __init__(self, config: GeneratorConfig, level: int) -> None:
        super().__init__()
        entry, conv0, conv1 = ([0, *config.widths] if level == 0 else config.widths[2 * level - 1 :])[:3]
        resolution = 4 << level
        if level == 0:
            self.const = nn.Parameter(torch.randn(conv0, 4, 4))
        else:
            self.conv0 = StyledConv(entry, conv0, resolution, w_dim=config.w_dim, up=2, clamp=config.conv_clamp)
        self.conv1 = StyledConv(conv0, conv1, resolution, w_dim=config.w_dim, up=1, clamp=config.conv_clamp)
        self.torgb = ToRGB(conv1, w_dim=config.w_dim, clamp=config.conv_clamp)


class SynthesisNetwork(nn.Module):
    """``ws`` to images: a learned constant grown through the blocks, each adding its colours to a skip image."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        for level, resolution in enumerate(config.resolutions):
            self.add_module(f"b{resolution}", SynthesisBlock(config, level))

    def blocks(self) -> list[tuple[str, SynthesisBlock]]:
        """("b4", block), ("b8", block), ..."""
        names = [f"b{resolution}" for resolution in self.config.resolutions]
        return [(name, cast(SynthesisBlock, self.get_submodule(name))) for name in names]

    def convs(self) -> list[tuple[str, StyledConv]]:
        """The 3x3 convolutions in the order of computation: b4.conv1, b8.conv0, b8.conv1, ..."""
        names = [(f"{name}.{conv}", block, conv) for name, block in self.blocks() for conv in ("conv0", "conv1")]
        return [(name, getattr(block, conv)) for name, block, conv in names if hasattr(block, conv)]

    def torgbs(self) -> list[tuple[str, ToRGB]]:
        """("b4.torgb", module), ("b8.torgb", module), ..."""
        return [(f"{name}.torgb", block.torgb) for name, block in self.blocks()]

    def features(
        self, ws: Tensor, *, noise: NoiseMode = "const", generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Images [B, 3, R, R] and the output of every block, [B, C, r, r] under "b4", "b8", ..."""
        expected = (self.config.num_ws, self.config.w_dim)
        if ws.ndim != 3 or tuple(ws.shape[1:]) != expected:
            raise ValueError(f"ws must be [B, {expected[0]}, {expected[1]}], got {list(ws.shape)}")
        outputs: dict[str, Tensor] = {}
        x = image = None
        for level, (name, block) in enumerate(self.blocks()):
            if x is None:
                x = block.const.expand(ws.shape[0], -1, -1, -1)
            else:
                # A block starts at the slot of the previous block's toRGB.
                x = block.conv0(x, ws[:, 2 * level - 1], noise, generator)
            x = block.conv1(x, ws[:, 2 * level], noise, generator)
            rgb = block.torgb(x, ws[:, 2 * level + 1])
            image = rgb if image is None else upsample_image(image) + rgb
            outputs[name] = x
        return cast(Tensor, image), outputs

    def forward(self, ws: Tensor, *, noise: NoiseMode = "const", generator: torch.Generator | None = None) -> Tensor:
        """ws [B, num_ws, w_dim] -> images [B, 3, R, R], nominally in [-1, 1] and not clamped.

        ``noise``: "const" uses the stored maps, "random" draws new ones (from ``generator`` when given), "none" adds
        nothing. Different codes per slot mix styles.
        """
        return self.features(ws, noise=noise, generator=generator)[0]


class Generator(nn.Module):
    """A StyleGAN2 generator: ``mapping`` (z -> ws) and ``synthesis`` (ws -> image)."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.synthesis = SynthesisNetwork(config)
        self.mapping = MappingNetwork(config)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channel counts, as in the config."""
        return self.config.widths

    def forward(
        self, z: Tensor, c: Tensor | None = None, *, psi: float | Tensor = 1.0, noise: NoiseMode = "const"
    ) -> Tensor:
        """Latents [B, z_dim] to images [B, 3, R, R], nominally in [-1, 1]."""
        return cast(Tensor, self.synthesis(self.mapping(z, c, psi=psi), noise=noise))
