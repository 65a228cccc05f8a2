"""The deployable generator: the same function as the readable one, with constant weights.

z, c -> mapping -> w -> styles of every layer, one product -> synthesis of StyleGAN2 or StyleGAN3 -> image
                    or ws -> styles, one product per slot -^
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ...generators import Generator, GeneratorConfig
from .stylegan2 import FusedStyleGAN2Synthesis, NoiseForm, Upsample, conv_layers
from .stylegan3 import FusedStyleGAN3Synthesis
from .styles import FusedMapping, FusedSlotStyles, FusedStyles, Weights

ImageForm = Literal["float", "uint8"]

UPSAMPLES: tuple[Upsample, ...] = ("transposed", "polyphase")
STORAGE = (torch.float32, torch.float16, torch.bfloat16)


class FusedGenerator(nn.Module):
    """A Generator rebuilt for deployment; equal to it within fp32 rounding.

    ``forward(z [B, z_dim], psi [B], c [B, c_dim] if conditional)`` draws float32 [B, 3, R, R], not clamped
    (``image="float"``), or uint8 [B, R, R, 3] (``image="uint8"``). It keeps constants only: nothing in it trains, and
    ``generator`` is copied, not referenced.

    ``upsample`` is one of two exact forms of StyleGAN2's up-sampling, see :class:`~.fused_stylegan2.FusedConv`, for all
    layers or by layer (``{"b8.conv0": "polyphase"}``, "transposed" where left out). ``storage`` is the type, by layer,
    in which a convolution keeps its weight, its input and its output (float32 where left out); styles, demodulation,
    noise, biases, toRGB and the image are float32 always. With ``noise="input"`` every call brings its noise, one map
    of standard deviation 1 per layer of :func:`noise_shapes`: ``forward(..., noise={"b8.conv0": [B, 1, 8, 8], ...})``.

    StyleGAN3 has neither forms of up-sampling nor noise: ``noise`` changes nothing there, and ``upsample`` is refused.
    Raises UsageError for that, for an unknown option and for a layer that does not exist.
    """

    def __init__(
        self,
        generator: Generator,
        *,
        upsample: Upsample | Mapping[str, Upsample] = "transposed",
        noise: NoiseForm = "const",
        image: ImageForm = "float",
        storage: Mapping[str, torch.dtype] | None = None,
    ) -> None:
        super().__init__()
        self.config = config = generator.config
        options = SynthesisOptions.checked(config, upsample, noise, image, storage or {})
        weights = _weights(generator)
        self.mapping = FusedMapping(weights, config)
        self.styles = FusedStyles(weights, config)
        self.synthesis = _synthesis(weights, config, options)
        self.options = options
        self.eval().requires_grad_(False)

    def forward(
        self, z: Tensor, psi: Tensor, c: Tensor | None = None, noise: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """One image per row of z. ``psi`` scales, per row, the distance of w from its mean; 1 leaves it alone."""
        return _images(self.synthesis, self.styles(self.mapping(z, c), psi), noise, self.options)


class FusedSynthesis(nn.Module):
    """The second half of :class:`FusedGenerator`: ``forward(ws [B, num_ws, w_dim], noise)`` draws images.

    For editing and style mixing: every layer reads its own slot of ws, as in the readable generator's ``synthesis``.
    There is no psi: truncation happens to ws. The options are those of :class:`FusedGenerator`.
    """

    def __init__(
        self,
        generator: Generator,
        *,
        upsample: Upsample | Mapping[str, Upsample] = "transposed",
        noise: NoiseForm = "const",
        image: ImageForm = "float",
        storage: Mapping[str, torch.dtype] | None = None,
    ) -> None:
        super().__init__()
        self.config = config = generator.config
        options = SynthesisOptions.checked(config, upsample, noise, image, storage or {})
        weights = _weights(generator)
        self.styles = FusedSlotStyles(weights, config)
        self.synthesis = _synthesis(weights, config, options)
        self.options = options
        self.eval().requires_grad_(False)

    def forward(self, ws: Tensor, noise: Mapping[str, Tensor] | None = None) -> Tensor:
        """One image per row of ws."""
        return _images(self.synthesis, self.styles(ws), noise, self.options)


@dataclass(frozen=True)
class SynthesisOptions:
    """What was chosen for a synthesis network; for a StyleGAN3 ``upsample`` is empty."""

    upsample: Mapping[str, Upsample]
    noise: NoiseForm
    image: ImageForm
    storage: Mapping[str, torch.dtype]

    @staticmethod
    def checked(
        config: GeneratorConfig,
        upsample: Upsample | Mapping[str, Upsample],
        noise: NoiseForm,
        image: ImageForm,
        storage: Mapping[str, torch.dtype],
    ) -> SynthesisOptions:
        """The options with one entry per layer, or a UsageError."""
        _require("noise", noise, ("const", "none", "input"))
        _require("image", image, ("float", "uint8"))
        forms, kept = upsample_methods(config, upsample), storage_types(config, storage)
        return SynthesisOptions(forms, noise if config.layout is None else "none", image, kept)

    def facts(self) -> dict[str, str]:
        """As an exported file tells them."""
        facts: dict[str, str] = {"image": self.image, "noise": self.noise}
        if self.upsample:
            facts["upsample"] = json.dumps({layer: {"form": form} for layer, form in self.upsample.items()})
        if self.storage:
            types = {layer: str(kind).removeprefix("torch.") for layer, kind in self.storage.items()}
            facts["storage"] = json.dumps(types)
        return facts


Synthesis = FusedStyleGAN2Synthesis | FusedStyleGAN3Synthesis


def _weights(generator: Generator) -> dict[str, Tensor]:
    return {key: value.detach().cpu().double() for key, value in generator.state_dict().items()}


def _synthesis(weights: Weights, config: GeneratorConfig, options: SynthesisOptions) -> Synthesis:
    if config.layout is not None:
        return FusedStyleGAN3Synthesis(weights, config, storage=options.storage)
    return FusedStyleGAN2Synthesis(
        weights,
        config,
        upsample=options.upsample,
        noise=options.noise,
        storage=options.storage,
        as_bytes=options.image == "uint8",
    )


def _images(
    synthesis: Synthesis, styles: tuple[Tensor, ...], noise: Mapping[str, Tensor] | None, options: SynthesisOptions
) -> Tensor:
    if isinstance(synthesis, FusedStyleGAN2Synthesis):  # makes the bytes itself, in its last toRGB
        return cast(Tensor, synthesis(styles, noise))
    image: Tensor = synthesis(styles)
    return to_uint8(image) if options.image == "uint8" else image


def to_uint8(image: Tensor) -> Tensor:
    """[B, 3, H, W], nominally in [-1, 1], to uint8 [B, H, W, 3]: clip(127.5 x + 128, 0, 255), truncated as NVIDIA's.

    The cast comes last because TensorRT allows uint8 for inputs and outputs, not between operators.
    """
    return (image * 127.5 + 128.0).clamp(0.0, 255.0).permute(0, 2, 3, 1).to(torch.uint8)


def upsample_methods(config: GeneratorConfig, upsample: Upsample | Mapping[str, Upsample]) -> dict[str, Upsample]:
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


def noise_shapes(config: GeneratorConfig) -> dict[str, tuple[int, int]]:
    """Height and width of the noise of every layer that has one; empty for a StyleGAN3."""
    return {layer: (size, size) for layer in conv_layers(config) for size in [int(layer[1:].split(".")[0])]}


def storage_types(config: GeneratorConfig, storage: Mapping[str, torch.dtype]) -> dict[str, torch.dtype]:
    """The storage type of every convolution, in the order of computation."""
    layers = conv_layers(config) if config.layout is None else list(config.layer_names[1:])  # the first is the input
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
