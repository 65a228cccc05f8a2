"""The fused generator: the same function as the readable one, with constant weights.

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

from ...errors import UsageError, choose
from ...generators import Generator, GeneratorConfig
from .stylegan2 import PLAIN, FusedConv, FusedStyleGAN2Synthesis, FusedToRGB, NoiseForm, Upsample, conv_layers
from .stylegan3 import FusedStyleGAN3Synthesis
from .styles import FusedMapping, FusedSlotStyles, FusedStyles, Weights

ImageForm = Literal["float", "uint8"]

STORAGE = (torch.float32, torch.float16, torch.bfloat16)


class _Fused(nn.Module):
    """What both fused networks share: the constructor, and from the styles on the same synthesis."""

    def __init__(
        self,
        generator: Generator,
        *,
        upsample: Upsample = "transposed",
        noise: NoiseForm = "const",
        image: ImageForm = "float",
        storage: Mapping[str, torch.dtype] | None = None,
    ) -> None:
        super().__init__()
        self.config = config = generator.config
        _require("noise", noise, ("const", "none", "input"))
        _require("image", image, ("float", "uint8"))
        _require("upsample", upsample, ("transposed", "polyphase"))
        if config.layout is not None and upsample != "transposed":
            raise UsageError(f"upsample {upsample!r} is for a StyleGAN2; this is a StyleGAN3", "Leave it out.")
        types = storage_types(config, storage or {})
        noise = noise if config.layout is None else "none"
        self.options = SynthesisOptions(upsample if config.layout is None else None, noise, image, types)
        weights = {key: value.detach().cpu().double() for key, value in generator.state_dict().items()}
        self._add_styles(weights, config)
        self.synthesis: FusedStyleGAN2Synthesis | FusedStyleGAN3Synthesis
        if config.layout is None:
            self.synthesis = FusedStyleGAN2Synthesis(
                weights, config, upsample=upsample, noise=noise, storage=types, as_bytes=image == "uint8"
            )
        else:
            self.synthesis = FusedStyleGAN3Synthesis(weights, config, storage=types)
        self.eval().requires_grad_(False)

    def _add_styles(self, weights: Weights, config: GeneratorConfig) -> None:
        raise NotImplementedError

    def _images(self, styles: tuple[Tensor, ...], noise: Mapping[str, Tensor] | None) -> Tensor:
        if isinstance(self.synthesis, FusedStyleGAN2Synthesis):  # its last toRGB makes the bytes
            return cast(Tensor, self.synthesis(styles, noise))
        image: Tensor = self.synthesis(styles)
        return to_uint8(image) if self.options.image == "uint8" else image


class FusedGenerator(_Fused):
    """A Generator rebuilt for deployment; equal to it within float32 rounding.

    ``forward(z [B, z_dim], psi [B], c [B, c_dim] if class-conditional)`` returns float32 [B, 3, H, W], not clamped
    (``image="float"``), or uint8 [B, H, W, 3] (``image="uint8"``). It has constants only, none of them trainable;
    ``generator`` is copied, not referenced.

    ``upsample`` selects one of two exact methods for StyleGAN2's up-sampling, see :class:`~.stylegan2.FusedConv`.
    ``storage`` is the type, by layer, of a convolution's weight, input and output (float32 where left out). Styles,
    demodulation, noise, biases, toRGB and the image are always float32. With ``noise="input"`` every call takes noise,
    one map of standard deviation 1 per layer of :func:`noise_shapes`:
    ``forward(..., noise={"b8.conv0": [B, 1, 8, 8], ...})``.

    A StyleGAN3 has no up-sampling methods and no noise: ``noise`` changes nothing there, and ``upsample`` is refused.
    Raises UsageError for that, for an unknown option and for a layer that does not exist.
    """

    def _add_styles(self, weights: Weights, config: GeneratorConfig) -> None:
        self.mapping = FusedMapping(weights, config)
        self.styles = FusedStyles(weights, config)

    def forward(
        self, z: Tensor, psi: Tensor, c: Tensor | None = None, noise: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Return one image per row of z. ``psi`` scales, per row, w's distance from its mean; 1 changes nothing."""
        return self._images(self.styles(self.mapping(z, c), psi), noise)


class FusedSynthesis(_Fused):
    """The second half of :class:`FusedGenerator`: ``forward(ws [B, num_ws, w_dim], noise)`` returns images.

    For editing and style mixing: every layer reads its own slot of ws, as in the readable generator's ``synthesis``.
    It takes no psi, because ws is truncated before. The options are those of :class:`FusedGenerator`.
    """

    def _add_styles(self, weights: Weights, config: GeneratorConfig) -> None:
        self.styles = FusedSlotStyles(weights, config)

    def forward(self, ws: Tensor, noise: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return one image per row of ws."""
        return self._images(self.styles(ws), noise)


def fused(
    generator: Generator, *, image: ImageForm = "float", upsample: Upsample = "transposed", noise: NoiseForm = "const"
) -> FusedGenerator:
    """Return the deployable form of ``generator``: a torch module with constants only, made for ``torch.export``.

    ``fused(generator)(z, psi, c)`` returns the images of ``generator(z, c, psi=psi)``, computed as in an exported ONNX
    file: all weights are constants, and the styles of all layers are one matrix product. It consists of torch's own
    operations, so that other compilers take its program::

        network = dcp.fused(dcp.load_generator("student.safetensors"))
        z, psi = torch.randn(1, network.config.z_dim), torch.ones(1)
        program = torch.export.export(network, (z, psi))

    The generator is copied and stays as it is. Arguments and errors as :class:`FusedGenerator`.
    """
    made = FusedGenerator(generator, image=image, upsample=upsample, noise=noise)
    for module in made.modules():
        if isinstance(module, FusedConv | FusedToRGB):
            module.operators = PLAIN
    return made


@dataclass(frozen=True)
class SynthesisOptions:
    """The options of a synthesis network; ``storage`` by layer, ``upsample`` None for a StyleGAN3."""

    upsample: Upsample | None
    noise: NoiseForm
    image: ImageForm
    storage: Mapping[str, torch.dtype]

    def facts(self) -> dict[str, str]:
        """Return the options as an exported file's metadata record them."""
        facts: dict[str, str] = {"image": self.image, "noise": self.noise}
        if self.upsample:
            facts["upsample"] = self.upsample
        if self.storage:
            types = {layer: str(kind).removeprefix("torch.") for layer, kind in self.storage.items()}
            facts["storage"] = json.dumps(types)
        return facts


def to_uint8(image: Tensor) -> Tensor:
    """Convert [B, 3, H, W], nominally in [-1, 1], to uint8 [B, H, W, 3]: clip(127.5 x + 128, 0, 255), truncated.

    This is NVIDIA's formula. The cast comes last because TensorRT allows uint8 only for inputs and outputs.
    """
    return (image * 127.5 + 128.0).clamp(0.0, 255.0).permute(0, 2, 3, 1).to(torch.uint8)


def noise_shapes(config: GeneratorConfig) -> dict[str, tuple[int, int]]:
    """Return height and width of the noise of every layer that has noise; empty for a StyleGAN3."""
    return {layer: config.size_at(int(layer[1:].split(".")[0])) for layer in conv_layers(config)}


def storage_types(config: GeneratorConfig, storage: Mapping[str, torch.dtype]) -> dict[str, torch.dtype]:
    """Return the storage type of every convolution, in the order of computation."""
    layers = conv_layers(config) if config.layout is None else list(config.layer_names[1:])  # the first is the input
    for kind in storage.values():
        _require("storage", kind, STORAGE)
    unknown = [layer for layer in storage if layer not in layers]
    if unknown:
        raise UsageError(f"storage names {', '.join(unknown)}", f"Use layers of: {', '.join(layers)}.")
    return {layer: storage.get(layer, torch.float32) for layer in layers}


def _require(name: str, value: object, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name} is {value!r}", choose(value, choices))
