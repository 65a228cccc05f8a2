"""The deployable generator: the same function as the readable one, with constant weights.

z, c -> mapping -> w -> styles of every layer, one product -> synthesis of StyleGAN2 or StyleGAN3 -> image
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..generators import Generator, GeneratorConfig
from .fused_stylegan2 import BakedNoise, FusedStyleGAN2Synthesis, Upsample, conv_layers
from .fused_stylegan3 import FusedStyleGAN3Synthesis
from .fused_styles import FusedMapping, FusedStyles

ImageForm = Literal["float", "uint8"]

UPSAMPLES = ("transposed", "polyphase")
STORAGE = (torch.float32, torch.float16, torch.bfloat16)


class FusedGenerator(nn.Module):
    """A Generator rebuilt for deployment; equal to it within fp32 rounding.

    ``forward(z [B, z_dim], psi [B], c [B, c_dim] if conditional)`` draws float32 [B, 3, R, R], not clamped
    (``image="float"``), or uint8 [B, R, R, 3] (``image="uint8"``). It keeps constants only: nothing in it trains, and
    ``generator`` is copied, not referenced.

    ``upsample`` is one of two exact forms of StyleGAN2's up-sampling, see :class:`~.fused_stylegan2.FusedConv`, for all
    layers or by layer (``{"b8.conv0": "polyphase"}``, "transposed" where left out). ``storage`` is the type, by layer,
    in which a convolution keeps its weight, its input and its output (float32 where left out); styles, demodulation,
    noise, biases, toRGB and the image are float32 always.

    StyleGAN3 has neither these choices nor noise: ``noise`` changes nothing there, and the others are refused. Raises
    UsageError for that, for an unknown option and for a layer that does not exist.
    """

    def __init__(
        self,
        generator: Generator,
        *,
        upsample: Upsample | Mapping[str, Upsample] = "transposed",
        noise: BakedNoise = "const",
        image: ImageForm = "float",
        storage: Mapping[str, torch.dtype] | None = None,
    ) -> None:
        super().__init__()
        _require("noise", noise, ("const", "none"))
        _require("image", image, ("float", "uint8"))
        self.config = config = generator.config
        self.image = image
        forms, kept = upsample_forms(config, upsample), storage_types(config, storage or {})
        weights = {key: value.detach().cpu().double() for key, value in generator.state_dict().items()}
        self.mapping = FusedMapping(weights, config)
        self.styles = FusedStyles(weights, config)
        self.synthesis: FusedStyleGAN2Synthesis | FusedStyleGAN3Synthesis
        self.baked: dict[str, str]  # the options that had an effect
        if config.layout is None:
            self.synthesis = FusedStyleGAN2Synthesis(
                weights, config, upsample=forms, noise=noise, storage=kept, as_bytes=image == "uint8"
            )
            types = {layer: str(kind).removeprefix("torch.") for layer, kind in kept.items()}
            self.baked = {"image": image, "noise": noise, "upsample": json.dumps(forms), "storage": json.dumps(types)}
        else:
            self.synthesis = FusedStyleGAN3Synthesis(weights, config)
            self.baked = {"image": image, "noise": "none"}
        self.eval().requires_grad_(False)

    def forward(self, z: Tensor, psi: Tensor, c: Tensor | None = None) -> Tensor:
        """One image per row of z. ``psi`` scales, per row, the distance of w from its mean; 1 leaves it alone."""
        image: Tensor = self.synthesis(self.styles(self.mapping(z, c), psi))
        return to_uint8(image) if self.image == "uint8" and image.is_floating_point() else image


def to_uint8(image: Tensor) -> Tensor:
    """[B, 3, H, W], nominally in [-1, 1], to uint8 [B, H, W, 3]: clip(127.5 x + 128, 0, 255), truncated as NVIDIA's.

    The cast comes last because TensorRT allows uint8 for inputs and outputs, not between operators.
    """
    return (image * 127.5 + 128.0).clamp(0.0, 255.0).permute(0, 2, 3, 1).to(torch.uint8)


def upsample_forms(config: GeneratorConfig, upsample: Upsample | Mapping[str, Upsample]) -> dict[str, Upsample]:
    """The form of every up-sampling layer of a StyleGAN2, in the order of computation; empty for a StyleGAN3."""
    layers = [layer for layer in conv_layers(config) if layer.endswith("conv0")]
    if isinstance(upsample, Mapping):
        given = dict(upsample)
        _require_layers("upsample", given, layers)
    else:
        _require("upsample", upsample, UPSAMPLES)
        if config.layout is not None and upsample != "transposed":
            raise UsageError(f"upsample {upsample!r} is a form of StyleGAN2; this is StyleGAN3", "leave it out")
        given = dict.fromkeys(layers, upsample)
    for form in given.values():
        _require("upsample", form, UPSAMPLES)
    return {layer: given.get(layer, "transposed") for layer in layers}


def storage_types(config: GeneratorConfig, storage: Mapping[str, torch.dtype]) -> dict[str, torch.dtype]:
    """The storage type of every convolution of a StyleGAN2, in the order of computation; empty for a StyleGAN3."""
    layers = conv_layers(config)
    for kind in storage.values():
        _require("storage", kind, STORAGE)
    _require_layers("storage", storage, layers)
    return {layer: storage.get(layer, torch.float32) for layer in layers}


def _require(name: str, value: object, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name} is {value!r}", f"use one of: {', '.join(map(str, choices))}")


def _require_layers(name: str, given: Mapping[str, Any], layers: list[str]) -> None:
    unknown = [layer for layer in given if layer not in layers]
    if unknown:
        remedy = f"use layers of: {', '.join(layers)}" if layers else "leave it out: a StyleGAN3 has no such choice"
        raise UsageError(f"{name} names {', '.join(unknown)}", remedy)
