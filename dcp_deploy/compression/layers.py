"""The parts of a synthesis layer, the same for StyleGAN2 and StyleGAN3, and a walk through all layers.

Every layer computes ``finish(response(W, styles * x))``: a linear map of the modulated input, demodulated or not, then
noise, bias and non-linearity. Scoring and refinement read the values in between.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..generators import Generator, StyledConv, StyleGAN2Synthesis, StyleGAN3Synthesis, SynthesisLayer, ToRGB
from ..generators.ops import modulated_conv2d, upsample_image

Layer = StyledConv | ToRGB | SynthesisLayer
_Network = TypeVar("_Network", bound=nn.Module)


def copy_to(network: _Network, device: torch.device) -> _Network:
    """Return a copy on ``device``.

    On a CPU it is in channels-last format: the same sums in a fifth less time (docs/benchmarks.md).
    """
    copied = copy.deepcopy(network).to(device)
    if device.type == "cpu":
        copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types lack this overload
    return copied


@dataclass(frozen=True)
class Step:
    """A layer with its input [B, Ci, H, W] and its codes [B, w_dim]."""

    layer: Layer
    x: Tensor
    w: Tensor
    outputs: int | None
    """Index of its output channels in ``GeneratorConfig.widths``; None for a toRGB."""
    image: Tensor | float = 0.0
    """For a StyleGAN2 toRGB, the image that its output is added to."""

    @cached_property
    def output(self) -> Tensor:
        """The layer's output [B, Co, H', W'], with the stored noise."""
        layer = self.layer
        out: Tensor = layer(self.x, self.w, "const") if isinstance(layer, StyledConv) else layer(self.x, self.w)
        return out

    def styles(self) -> Tensor:
        """Return the styles [B, Ci] as the layer applies them."""
        layer = self.layer
        if isinstance(layer, ToRGB):
            return layer.styles(self.w)
        styles: Tensor = layer.affine(self.w)
        if isinstance(layer, StyledConv):
            return styles
        if layer.spec.torgb:
            return styles / math.sqrt(layer.weight.shape[1])
        # The layer also normalises its weights, which cancels in the demodulation but for an epsilon of 1e-8.
        return styles * styles.square().mean(dim=1, keepdim=True).rsqrt()

    def scaled(self) -> Tensor:
        """Return the input times StyleGAN3's constant gain, [B, Ci, H, W]."""
        return self.x * self.layer.magnitude_ema.rsqrt() if isinstance(self.layer, SynthesisLayer) else self.x

    def modulated(self) -> Tensor:
        """Return the input of the linear map, [B, Ci, H, W]."""
        return self.scaled() * self.styles()[:, :, None, None]

    def response(self) -> Tensor:
        """Return the layer's output before noise and bias, [B, Co, H', W']."""
        demodulate, geometry = self.outputs is not None, conv_geometry(self.layer)
        return modulated_conv2d(self.scaled(), self.layer.weight, self.styles(), demodulate=demodulate, **geometry)


def conv_geometry(layer: Layer) -> dict[str, int]:
    """Return the keywords of :func:`modulated_conv2d` that decide the layer's output size."""
    if isinstance(layer, StyledConv):
        return {"up": layer.up}
    return {"padding": layer.spec.kernel - 1} if isinstance(layer, SynthesisLayer) else {}


def tap_responses(layer: Layer, x: Tensor) -> Tensor:
    """Return the matrix [Ci k k, P] which the flattened weights [Co, Ci k k] multiply: each tap of ``x`` [Ci, H, W].

    ``x`` is a modulated input, and P counts the positions of the output.
    """
    kernel = layer.weight.shape[-1]
    taps = torch.eye(kernel**2, device=x.device, dtype=x.dtype).reshape(-1, 1, kernel, kernel)
    ones = x.new_ones(len(x), 1)
    responses = modulated_conv2d(x[:, None], taps, ones, demodulate=False, **conv_geometry(layer))
    return responses.reshape(len(x) * kernel**2, -1)


@dataclass(frozen=True)
class Place:
    """Where a layer stands: ``code`` is the index of its code among the ``num_ws`` of an image.

    ``inputs`` and ``outputs`` are the indices of its channels in ``GeneratorConfig.widths``; a toRGB has no outputs.
    """

    layer: Layer
    code: int
    inputs: int
    outputs: int | None


def places(generator: Generator) -> list[Place]:
    """Return all layers in the order of computation."""
    network = generator.synthesis
    if isinstance(network, StyleGAN3Synthesis):
        layers = enumerate((layer for _, layer in network.layers()), start=1)
        return [Place(layer, slot, slot - 1, None if layer.spec.torgb else slot) for slot, layer in layers]
    found, torgbs = list[Place](), [layer for _, layer in network.torgbs()]
    for slot, (_, conv) in enumerate(network.convs()):
        found.append(Place(conv, slot, slot, slot + 1))
        if slot % 2 == 0:  # the last convolution of its resolution
            found.append(Place(torgbs[slot // 2], slot + 1, slot + 1, None))
    return found


def layer_count(generator: Generator) -> int:
    """Return how many layers :func:`walk` visits."""
    return len(places(generator))


def walk(generator: Generator, ws: Tensor) -> Iterator[Step]:
    """Yield every layer in the order of computation, for codes [B, num_ws, w_dim]; its output is computed on demand."""
    network, torgb = generator.synthesis, None
    if isinstance(network, StyleGAN2Synthesis):
        x = network.get_parameter("b4.const").expand(len(ws), -1, -1, -1)
    else:
        x = network.input(ws[:, 0])
    for place in places(generator):
        last = torgb if isinstance(place.layer, ToRGB) else None
        image = 0.0 if last is None else upsample_image(last.image + last.output)
        step = Step(place.layer, x, ws[:, place.code], place.outputs, image)
        yield step
        if isinstance(place.layer, ToRGB):
            torgb = step
        else:
            x = step.output


def nth_step(generator: Generator, ws: Tensor, index: int) -> Step:
    """Return layer ``index`` of the walk, with nothing computed after it."""
    return next(islice(walk(generator, ws), index, None))
