"""StyleGAN networks in plain torch, and their costs. Imports nothing from the rest of the project."""

from __future__ import annotations

from .config import DiscriminatorConfig, GeneratorConfig
from .counting import count_macs, count_parameters, layer_macs
from .discriminator import Discriminator
from .generator import Generator
from .schedule import LayerSpec, StyleGAN3Layout, layer_specs
from .stylegan2 import NoiseMode, StyledConv, StyleGAN2Synthesis, ToRGB
from .stylegan3 import StyleGAN3Synthesis, SynthesisLayer

__all__ = [
    "Discriminator",
    "DiscriminatorConfig",
    "Generator",
    "GeneratorConfig",
    "LayerSpec",
    "NoiseMode",
    "StyleGAN2Synthesis",
    "StyleGAN3Layout",
    "StyleGAN3Synthesis",
    "StyledConv",
    "SynthesisLayer",
    "ToRGB",
    "count_macs",
    "count_parameters",
    "layer_macs",
    "layer_specs",
]
