"""StyleGAN networks in plain torch, and what they cost. Imports nothing of the rest of the project."""

from __future__ import annotations

from .config import DiscriminatorConfig, GeneratorConfig
from .counting import count_macs, count_parameters, layer_macs
from .discriminator import Discriminator
from .stylegan2 import Generator, NoiseMode, StyledConv, SynthesisNetwork, ToRGB

__all__ = [
    "Discriminator",
    "DiscriminatorConfig",
    "Generator",
    "GeneratorConfig",
    "NoiseMode",
    "StyledConv",
    "SynthesisNetwork",
    "ToRGB",
    "count_macs",
    "count_parameters",
    "layer_macs",
]
