"""The first half of the fused generator: latents to the styles of every layer, for StyleGAN2 and StyleGAN3."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...generators import GeneratorConfig
from ...generators.ops import LRELU_GAIN, normalize_second_moment
from ...kernels.constants import LEAKY_SLOPE

Weights = Mapping[str, Tensor]  # a Generator's state dict in float64, so that folding constants costs no precision


class FusedMapping(nn.Module):
    """The mapping network: z (and the class) to w [B, w_dim] before truncation, with all gains folded into weights."""

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
        matrices, biases = zip(*(_affine(weights, *layer) for layer in styled_layers(config)), strict=True)
        self.widths = [len(bias) for bias in biases]
        stacked = torch.cat(matrices)
        mean = stacked @ weights["mapping.w_avg"] / math.sqrt(config.w_dim)
        self.affine = _linear(stacked, -mean)
        self.register_buffer("base", (mean + torch.cat(biases)).float())

    def forward(self, w: Tensor, psi: Tensor) -> tuple[Tensor, ...]:
        """Return one [B, C] per layer, in the order of :func:`styled_layers`."""
        styles = self.affine(w) * psi[:, None] + self.base
        return cast("tuple[Tensor, ...]", styles.split(self.widths, dim=1))


class FusedSlotStyles(nn.Module):
    """The styles of every layer from ``ws``, one latent per slot: one matrix product for each slot.

    A slot serves one or two layers. One batched product of all slots would pad them to the widest one, which takes
    twice the CPU time for one image and three times for eight (256 px, ONNX Runtime 1.32, full and 30 % widths).
    """

    def __init__(self, weights: Weights, config: GeneratorConfig) -> None:
        super().__init__()
        self.slots = layer_slots(config)  # by layer, in the order of use
        self.widths: list[list[int]] = []
        for slot in range(config.num_ws):
            layers = [(layer, torgb) for layer, torgb in styled_layers(config) if self.slots[layer] == slot]
            matrices, biases = zip(*(_affine(weights, layer, torgb) for layer, torgb in layers), strict=True)
            self.widths.append([len(bias) for bias in biases])
            self.add_module(f"slot{slot}", _linear(torch.cat(matrices), torch.cat(biases)))

    def forward(self, ws: Tensor) -> tuple[Tensor, ...]:
        """Map ws [B, num_ws, w_dim] to one [B, C] per layer, in the order of :func:`styled_layers`."""
        parts = []
        for slot, widths in enumerate(self.widths):
            styles = self.get_submodule(f"slot{slot}")(ws[:, slot])
            parts.append(iter(styles.split(widths, dim=1)))
        return tuple(next(parts[slot]) for slot in self.slots.values())


def styled_layers(config: GeneratorConfig) -> Iterator[tuple[str, bool]]:
    """Yield every layer with a style, in the order of use, and whether it is a toRGB.

    StyleGAN2: conv0 (from 8 px), conv1, torgb of each block. StyleGAN3: input (its style is a motion), L0, L1, ...
    """
    if config.layout is not None:
        yield from ((layer, False) for layer in config.layer_names)
        yield f"L{config.layout.num_layers}", True
        return
    for resolution in config.resolutions:
        for layer in ("conv1", "torgb") if resolution == 4 else ("conv0", "conv1", "torgb"):
            yield f"b{resolution}.{layer}", layer == "torgb"


def layer_slots(config: GeneratorConfig) -> dict[str, int]:
    """Return the slot of ws that each layer of :func:`styled_layers` reads.

    Each layer has the next slot, except that a toRGB of StyleGAN2 shares one with the next block's conv0.
    """
    slots: dict[str, int] = {}
    slot = 0
    for name, torgb in styled_layers(config):
        slots[name] = slot
        slot += not torgb
    return slots


def _affine(weights: Weights, layer: str, torgb: bool) -> tuple[Tensor, Tensor]:
    """Return (matrix [C, w_dim], bias [C]). toRGB's equalised learning rate is a factor 1 / sqrt(C) of its styles."""
    matrix, bias = weights[f"synthesis.{layer}.affine.weight"], weights[f"synthesis.{layer}.affine.bias"]
    gain = 1 / math.sqrt(len(bias)) if torgb else 1.0
    return matrix * gain, bias * gain


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Return an ordinary layer for x W^T / sqrt(fan_in) + b, with StyleGAN's equalised learning rate folded in."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight = nn.Parameter((weight / math.sqrt(weight.shape[1])).float(), requires_grad=False)
    layer.bias = nn.Parameter(bias.float(), requires_grad=False)
    return layer
