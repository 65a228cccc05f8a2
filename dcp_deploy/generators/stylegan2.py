"""StyleGAN2's synthesis network (Karras et al. 2020) with skip connections and noise, for inference and training.

Parameters have the names and shapes of NVIDIA's PyTorch networks, so their tensors load as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from .config import GeneratorConfig
from .mapping import Dense, check_ws
from .ops import bias_act, modulated_conv2d, upsample_image

NoiseMode = Literal["const", "random", "none"]
NoiseSource = torch.Generator | Sequence[torch.Generator]
"""The source of random noise: one generator for the batch, or one for each sample."""


class StyledConv(nn.Module):
    """3x3 modulated convolution (which doubles the size if ``up`` is 2), noise, bias, leaky ReLU."""

    noise_const: Tensor

    def __init__(
        self, fan_in: int, fan_out: int, size: tuple[int, int], *, w_dim: int, up: int, clamp: float | None
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in, 3, 3))
        self.bias = nn.Parameter(torch.zeros(fan_out))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("noise_const", torch.randn(size))
        self.affine = Dense(w_dim, fan_in, bias_init=1.0)
        self.size = size
        self.up = up
        self.conv_clamp = clamp

    def noise(self, batch: int, mode: NoiseMode, generator: NoiseSource | None) -> Tensor | None:
        """Return noise [H, W] or [B, 1, H, W] for all channels; None for mode "none"."""
        if mode == "none":
            return None
        if mode == "const":
            return self.noise_const * self.noise_strength
        if mode != "random":
            raise ValueError(f"noise must be 'const', 'random' or 'none', got {mode!r}")
        size = (1, *self.size)
        if isinstance(generator, Sequence):
            drawn = torch.stack([torch.randn(size, generator=one) for one in generator])
        else:
            drawn = torch.randn((batch, *size), generator=generator)
        return drawn.to(self.noise_const) * self.noise_strength

    def forward(self, x: Tensor, w: Tensor, mode: NoiseMode, generator: NoiseSource | None = None) -> Tensor:
        y = modulated_conv2d(x, self.weight, self.affine(w), up=self.up)
        noise = self.noise(x.shape[0], mode, generator)
        if noise is not None:
            y = y + noise.to(y.dtype)
        return bias_act(y, self.bias, self.conv_clamp)


class ToRGB(nn.Module):
    """1x1 modulated convolution to three channels, without demodulation, activation and noise."""

    def __init__(self, fan_in: int, *, w_dim: int, clamp: float | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, fan_in, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))
        self.affine = Dense(w_dim, fan_in, bias_init=1.0)
        self.conv_clamp = clamp

    def styles(self, w: Tensor) -> Tensor:
        """Return styles [B, C] for w [B, w_dim]. The equalised learning rate, 1 / sqrt(C), applies to them here."""
        return cast(Tensor, self.affine(w)) / math.sqrt(self.weight.shape[1])

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        y = modulated_conv2d(x, self.weight, self.styles(w), demodulate=False) + self.bias[:, None, None]
        return y if self.conv_clamp is None else y.clamp(-self.conv_clamp, self.conv_clamp)


class SynthesisBlock(nn.Module):
    """One size: the constant (in ``b4``) or an up-sampling conv0, then conv1 and toRGB."""

    def __init__(self, config: GeneratorConfig, level: int) -> None:
        super().__init__()
        entry, conv0, conv1 = ([0, *config.widths] if level == 0 else config.widths[2 * level - 1 :])[:3]
        size = config.size_at(4 << level)
        if level == 0:
            self.const = nn.Parameter(torch.randn(conv0, *size))
        else:
            self.conv0 = StyledConv(entry, conv0, size, w_dim=config.w_dim, up=2, clamp=config.conv_clamp)
        self.conv1 = StyledConv(conv0, conv1, size, w_dim=config.w_dim, up=1, clamp=config.conv_clamp)
        self.torgb = ToRGB(conv1, w_dim=config.w_dim, clamp=config.conv_clamp)


class StyleGAN2Synthesis(nn.Module):
    """Maps ``ws`` to images: blocks grow a learned constant, and each adds its colours to a skip image."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        for level, resolution in enumerate(config.resolutions):
            self.add_module(f"b{resolution}", SynthesisBlock(config, level))

    def blocks(self) -> list[tuple[str, SynthesisBlock]]:
        """Return ("b4", block), ("b8", block), ..."""
        names = [f"b{resolution}" for resolution in self.config.resolutions]
        return [(name, cast(SynthesisBlock, self.get_submodule(name))) for name in names]

    def convs(self) -> list[tuple[str, StyledConv]]:
        """Return the 3x3 convolutions in the order of computation: b4.conv1, b8.conv0, b8.conv1, ..."""
        names = [(f"{name}.{conv}", block, conv) for name, block in self.blocks() for conv in ("conv0", "conv1")]
        return [(name, getattr(block, conv)) for name, block, conv in names if hasattr(block, conv)]

    def torgbs(self) -> list[tuple[str, ToRGB]]:
        """Return ("b4.torgb", module), ("b8.torgb", module), ..."""
        return [(f"{name}.torgb", block.torgb) for name, block in self.blocks()]

    def scored(self) -> list[tuple[str, StyledConv | ToRGB]]:
        """Return the layers with the input channels ``config.widths``: all 3x3 convolutions, then the last toRGB."""
        return [*self.convs(), self.torgbs()[-1]]

    def features(
        self,
        ws: Tensor,
        *,
        noise: NoiseMode = "const",
        generator: NoiseSource | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return images [B, 3, H, W] and the output of every block, [B, C, h, w] under "b4", "b8", ...

        ``dtype`` is that of the convolutions and features, by default that of the weights. Images, styles and colours
        always have that of the weights.
        """
        check_ws(ws, self.config)
        outputs: dict[str, Tensor] = {}
        x = image = None
        for level, (name, block) in enumerate(self.blocks()):
            if x is None:
                x = block.const.to(dtype or block.const.dtype).expand(ws.shape[0], -1, -1, -1)
            else:
                # A block starts at the slot of the previous block's toRGB.
                x = block.conv0(x, ws[:, 2 * level - 1], noise, generator)
            x = block.conv1(x, ws[:, 2 * level], noise, generator)
            rgb = block.torgb(x, ws[:, 2 * level + 1])
            image = rgb if image is None else upsample_image(image) + rgb
            outputs[name] = x
        return cast(Tensor, image), outputs

    def features_until(
        self,
        ws: Tensor,
        last: str,
        *,
        noise: NoiseMode = "const",
        generator: NoiseSource | None = None,
        dtype: torch.dtype | None = None,
    ) -> dict[str, Tensor]:
        """Return the block outputs of :meth:`features` up to block ``last``, without computing any toRGB."""
        const = self.get_parameter("b4.const")
        x = const.to(dtype or const.dtype).expand(ws.shape[0], -1, -1, -1)
        outputs: dict[str, Tensor] = {}
        for slot, (name, conv) in enumerate(self.convs()):
            block = name.split(".")[0]
            x = outputs[block] = conv(x, ws[:, slot], noise, generator)
            if name == f"{last}.conv1":
                break
        return outputs

    def forward(self, ws: Tensor, *, noise: NoiseMode = "const", generator: NoiseSource | None = None) -> Tensor:
        """Return images [B, 3, H, W], nominally in [-1, 1] and not clamped, for ws [B, num_ws, w_dim].

        ``noise``: "const" uses the stored maps, "random" draws new ones (from ``generator`` if there is one), "none"
        adds nothing. Different codes in the slots mix styles.
        """
        return self.features(ws, noise=noise, generator=generator)[0]
