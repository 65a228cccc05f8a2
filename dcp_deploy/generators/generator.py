"""A generator: the mapping network and, by its kind, a StyleGAN2 or a StyleGAN3 synthesis network."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from .config import GeneratorConfig
from .mapping import MappingNetwork
from .stylegan2 import NoiseMode, StyleGAN2Synthesis
from .stylegan3 import StyleGAN3Synthesis


class Generator(nn.Module):
    """``mapping`` (z -> ws) and ``synthesis`` (ws -> image) of either kind.

    Both synthesis networks have the methods ``forward``, ``features``, ``features_until`` and ``scored``.
    """

    synthesis: StyleGAN2Synthesis | StyleGAN3Synthesis

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.synthesis = (StyleGAN2Synthesis if config.layout is None else StyleGAN3Synthesis)(config)
        self.mapping = MappingNetwork(config)

    @property
    def widths(self) -> tuple[int, ...]:
        """The channel counts of the config."""
        return self.config.widths

    def forward(
        self, z: Tensor, c: Tensor | None = None, *, psi: float | Tensor = 1.0, noise: NoiseMode = "const"
    ) -> Tensor:
        """Return images [B, 3, H, W], nominally in [-1, 1], for latents [B, z_dim]."""
        return cast(Tensor, self.synthesis(self.mapping(z, c, psi=psi), noise=noise))
