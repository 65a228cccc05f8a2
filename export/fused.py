"""The deployable generator: the same function as the readable one, with constant weights.

z, c -> mapping -> w -> styles of every layer, one product -> synthesis of StyleGAN2 or StyleGAN3 -> image
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..generators import Generator
from .fused_stylegan2 import BakedNoise, FusedStyleGAN2Synthesis, Upsample
from .fused_stylegan3 import FusedStyleGAN3Synthesis
from .fused_styles import FusedMapping, FusedStyles

ImageForm = Literal["float", "uint8"]


class FusedGenerator(nn.Module):
    """A Generator rebuilt for deployment; equal to it within fp32 rounding.

    ``forward(z [B, z_dim], psi [B], c [B, c_dim] if conditional)`` draws float32 [B, 3, R, R], not clamped
    (``image="float"``), or uint8 [B, R, R, 3] (``image="uint8"``). It keeps constants only: nothing in it trains, and
    ``generator`` is copied, not referenced.

    ``upsample`` is one of two exact forms of StyleGAN2's up-sampling, see :class:`~.fused_stylegan2.FusedConv`.
    StyleGAN3 has neither that choice nor noise: ``noise`` changes nothing there, and "polyphase" is refused. Raises
    UsageError for that and for an unknown option.
    """

    def __init__(
        self,
        generator: Generator,
        *,
        upsample: Upsample = "transposed",
        noise: BakedNoise = "const",
        image: ImageForm = "float",
    ) -> None:
        super().__init__()
        _require("upsample", upsample, ("transposed", "polyphase"))
        _require("noise", noise, ("const", "none"))
        _require("image", image, ("float", "uint8"))
        self.config = config = generator.config
        self.image = image
        weights = {key: value.detach().cpu().double() for key, value in generator.state_dict().items()}
        self.mapping = FusedMapping(weights, config)
        self.styles = FusedStyles(weights, config)
        self.synthesis: FusedStyleGAN2Synthesis | FusedStyleGAN3Synthesis
        self.baked: dict[str, str]  # the options that had an effect
        if config.layout is None:
            self.synthesis = FusedStyleGAN2Synthesis(weights, config, upsample=upsample, noise=noise)
            self.baked = {"image": image, "upsample": upsample, "noise": noise}
        else:
            if upsample != "transposed":
                raise UsageError(f"upsample {upsample!r} is a form of StyleGAN2; this is StyleGAN3", "leave it out")
            self.synthesis = FusedStyleGAN3Synthesis(weights, config)
            self.baked = {"image": image, "noise": "none"}
        self.eval().requires_grad_(False)

    def forward(self, z: Tensor, psi: Tensor, c: Tensor | None = None) -> Tensor:
        """One image per row of z. ``psi`` scales, per row, the distance of w from its mean; 1 leaves it alone."""
        image: Tensor = self.synthesis(self.styles(self.mapping(z, c), psi))
        return to_uint8(image) if self.image == "uint8" else image


def to_uint8(image: Tensor) -> Tensor:
    """[B, 3, H, W], nominally in [-1, 1], to uint8 [B, H, W, 3]: clip(127.5 x + 128, 0, 255), truncated as NVIDIA's.

    The cast comes last because TensorRT allows uint8 for inputs and outputs, not between operators.
    """
    return (image * 127.5 + 128.0).clamp(0.0, 255.0).permute(0, 2, 3, 1).to(torch.uint8)


def _require(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name} is {value!r}", f"use one of: {', '.join(choices)}")
