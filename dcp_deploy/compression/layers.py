"""The parts of a synthesis layer, the same for StyleGAN2 and StyleGAN3, and a walk through all layers.

Every layer is  finish(response(W, styles * x)) : a linear map of the modulated input, demodulated or not, and what
follows it. Scoring and refinement look in between.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Generator as Routine
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..generators import Generator, StyledConv, StyleGAN2Synthesis, StyleGAN3Synthesis, SynthesisLayer, ToRGB
from ..generators.ops import modulated_conv2d, upsample_image

Layer = StyledConv | ToRGB | SynthesisLayer
_Network = TypeVar("_Network", bound=nn.Module)


def copy_to(network: _Network, device: torch.device) -> _Network:
    """A copy there. A CPU computes the same sums with channels last, in a fifth less time (docs/benchmarks.md)."""
    copied = copy.deepcopy(network).to(device)
    if device.type == "cpu":
        copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types do not know it alone
    return copied


@dataclass(frozen=True)
class Step:
    """A layer about to be computed: its input [B, Ci, H, W] and its codes [B, w_dim]."""

    layer: Layer
    x: Tensor
    w: Tensor
    outputs: int | None
    """The entry of ``GeneratorConfig.widths`` that its output channels are; None for a toRGB."""
    image: Tensor | float = 0.0
    """For a toRGB: the image that its output is added to."""

    def styles(self) -> Tensor:
        """[B, Ci], as the layer applies them."""
        layer = self.layer
        if isinstance(layer, ToRGB):
            return layer.styles(self.w)
        styles: Tensor = layer.affine(self.w)
        if isinstance(layer, StyledConv):
            return styles
        if layer.spec.torgb:
            return styles / math.sqrt(layer.weight.shape[1])
        # The layer's own norm of its weights cancels in the demodulation, but for an epsilon of 1e-8.
        return styles * styles.square().mean(dim=1, keepdim=True).rsqrt()

    def scaled(self) -> Tensor:
        """The input with StyleGAN3's constant gain, [B, Ci, H, W]."""
        return self.x * self.layer.magnitude_ema.rsqrt() if isinstance(self.layer, SynthesisLayer) else self.x

    def modulated(self) -> Tensor:
        """The input of the linear map, [B, Ci, H, W]."""
        return self.scaled() * self.styles()[:, :, None, None]

    def response(self) -> Tensor:
        """The layer's output before noise and bias, [B, Co, H', W']."""
        demodulate, geometry = self.outputs is not None, conv_geometry(self.layer)
        return modulated_conv2d(self.scaled(), self.layer.weight, self.styles(), demodulate=demodulate, **geometry)


def layer_count(generator: Generator) -> int:
    """How many layers :func:`walk` visits."""
    network = generator.synthesis
    if isinstance(network, StyleGAN2Synthesis):
        return len(network.convs()) + len(network.torgbs())
    return len(network.layers())


def conv_geometry(layer: Layer) -> dict[str, int]:
    """What the layer's convolution does to sizes, as keywords of :func:`modulated_conv2d`."""
    if isinstance(layer, StyledConv):
        return {"up": layer.up}
    return {"padding": layer.spec.kernel - 1} if isinstance(layer, SynthesisLayer) else {}


def tap_responses(layer: Layer, x: Tensor) -> Tensor:
    """The matrix [Ci k k, P] which the flattened weights [Co, Ci k k] multiply: modulated x [Ci, H, W] by each tap."""
    kernel = layer.weight.shape[-1]
    taps = torch.eye(kernel**2, device=x.device, dtype=x.dtype).reshape(-1, 1, kernel, kernel)
    ones = x.new_ones(len(x), 1)
    seen = modulated_conv2d(x[:, None], taps, ones, demodulate=False, **conv_geometry(layer))
    return seen.reshape(len(x) * kernel**2, -1)


def walk(generator: Generator, ws: Tensor) -> Routine[Step, Tensor, None]:
    """Yield every layer just before it is computed, in that order; each time wants the layer's output sent.

    ``ws`` is [B, num_ws, w_dim]. Noise is the stored one when the output sent is :func:`output_of`.
    """
    network = generator.synthesis
    yield from _stylegan2(network, ws) if isinstance(network, StyleGAN2Synthesis) else _stylegan3(network, ws)


def output_of(step: Step) -> Tensor:
    """What the layer gives, with constant noise."""
    layer = step.layer
    out: Tensor = layer(step.x, step.w, "const") if isinstance(layer, StyledConv) else layer(step.x, step.w)
    return out


def nth_step(generator: Generator, ws: Tensor, index: int) -> Step:
    """Compute up to layer ``index`` of the walk and no further."""
    routine = walk(generator, ws)
    step = next(routine)
    for _ in range(index):
        step = routine.send(output_of(step))
    return step


def _stylegan2(network: StyleGAN2Synthesis, ws: Tensor) -> Routine[Step, Tensor, None]:
    x, image = network.get_parameter("b4.const").expand(len(ws), -1, -1, -1), None
    torgbs = [torgb for _, torgb in network.torgbs()]
    for slot, (_, conv) in enumerate(network.convs()):
        x = yield Step(conv, x, ws[:, slot], slot + 1)
        if slot % 2 == 0:  # the last convolution of its resolution
            before = 0.0 if image is None else upsample_image(image)
            image = before + (yield Step(torgbs[slot // 2], x, ws[:, slot + 1], None, before))


def _stylegan3(network: StyleGAN3Synthesis, ws: Tensor) -> Routine[Step, Tensor, None]:
    x = network.input(ws[:, 0])
    for slot, (_, layer) in enumerate(network.layers(), start=1):
        x = yield Step(layer, x, ws[:, slot], None if layer.spec.torgb else slot)
