"""Sizes and schedule of a training on photographs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from ..generators import GeneratorConfig


@dataclass(frozen=True)
class Recipe:
    """Sizes and schedule. The defaults are for one core of a CPU; ``for_gpu`` for an H200."""

    objective: Literal["projected", "stylegan2", "regression"] = "projected"
    resolution: int = 32
    channel_base: int = 2048
    channel_max: int = 64
    z_dim: int = 64
    w_dim: int = 128
    mapping_layers: int = 2
    batch: int = 32
    steps: int = 30_000
    lr: float = 2e-3
    feature_size: int = 64  # px that images are scaled to before the projected adversary's features
    r1_gamma: float = 0.01
    bfloat16: bool = False
    average_images: float = 10_000.0  # in which the weight of an image in the average halves
    augment_target: float = 0.6
    augment_images: float = 100_000.0  # in which p could rise from 0 to 1
    record_every: int = 50
    look_every: int = 500  # steps between two grids and distances
    look_samples: int = 2000
    evaluation_samples: int = 10_000
    seed: int = 0

    @classmethod
    def for_gpu(cls) -> Recipe:
        """Return the recipe for one large GPU: StyleGAN2's discriminator and batches of 256, in bfloat16."""
        return cls(
            objective="stylegan2", channel_base=8192, channel_max=256, z_dim=512, w_dim=512, batch=256, steps=12_000,
            lr=2.5e-3, bfloat16=True, average_images=500_000.0, augment_images=500_000.0, look_samples=5000,
        )  # fmt: skip

    def generator(self, c_dim: int) -> GeneratorConfig:
        """Return the configuration of the network."""
        return GeneratorConfig.stylegan2(
            self.resolution, self.channel_base, self.channel_max, z_dim=self.z_dim, w_dim=self.w_dim, c_dim=c_dim,
            mapping_layers=self.mapping_layers,
        )  # fmt: skip

    @property
    def dtype(self) -> torch.dtype:
        """The type that convolutions compute in."""
        return torch.bfloat16 if self.bfloat16 else torch.float32
