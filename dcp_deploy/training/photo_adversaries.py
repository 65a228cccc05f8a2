"""The two adversaries of the photograph teacher: one of pretrained features, for CPUs, and StyleGAN2's own.

Each has a discriminator with its optimiser. ``step`` trains it on a batch of real and generated images, as changed by
the augmentation, and returns the generator's loss.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..compression.distillation import losses
from ..generators import Discriminator, DiscriminatorConfig, GeneratorConfig
from ..metrics.efficientnet import EfficientNetLite0
from .feature_discriminator import FeatureDiscriminator, discriminator_hinge_loss, generator_hinge_loss
from .parts import step

BETAS = (0.0, 0.99)
R1_INTERVAL = 16  # steps between two penalties: Karras et al. 2020, section 3.1
FEATURE_SCALES = (12.0, 11.0, 8.0, 3.5)
"""Standard deviations of EfficientNet-Lite0's maps of CIFAR-10's photographs, scaled up to 64 px."""

Images = tuple[Tensor, Tensor | None]
"""Images [B, 3, H, W] in [-1, 1] and their one-hot classes [B, c_dim], or None."""


class Adversary(Protocol):
    """What the trainer needs of an adversary."""

    @property
    def network(self) -> nn.Module: ...

    @property
    def optimizer(self) -> torch.optim.Optimizer: ...

    def step(self, real: Images, generated: Images, number: int) -> tuple[Tensor, dict[str, float]]:
        """Update the discriminator in step ``number``; return the generator's loss, and "d_loss" and "sign".

        The generated images carry the generator's graph. "sign" is the mean sign of the logits of real images.
        """


class ProjectedAdversary:
    """Sauer et al. 2021, "Projected GANs Converge Faster", over frozen EfficientNet-Lite0 features.

    Images are scaled to ``size`` px first. Real images' features are computed without a graph; those of generated
    images serve the discriminator and, through the graph, the generator.
    """

    def __init__(self, features: EfficientNetLite0, *, size: int, c_dim: int, lr: float) -> None:
        self.features, self.size = features, size
        device = features.mean.device
        with torch.no_grad():
            maps = features.maps(torch.zeros(1, 3, size, size, device=device))
        self.network = FeatureDiscriminator([(x.shape[1], x.shape[2]) for x in maps], c_dim)
        self.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=lr, betas=BETAS)

    def step(self, real: Images, generated: Images, number: int) -> tuple[Tensor, dict[str, float]]:
        with torch.no_grad():
            real_maps = self.maps(real[0])
        maps = self.maps(generated[0])
        self.network.follow()
        real_logits = self.network(real_maps, real[1])
        loss = discriminator_hinge_loss(real_logits, self.network([x.detach() for x in maps], generated[1]))
        step(self.optimizer, loss)
        sign = torch.cat([logits.detach().sign().flatten() for logits in real_logits]).mean()
        self.network.requires_grad_(False)
        wanted = generator_hinge_loss(self.network(maps, generated[1]))
        self.network.requires_grad_(True)
        return wanted, {"d_loss": loss.item(), "sign": sign.item()}

    def maps(self, images: Tensor) -> list[Tensor]:
        """Return the features' maps of images, each divided by its usual standard deviation."""
        larger = F.interpolate(images, size=(self.size, self.size), mode="bilinear", align_corners=False)
        maps = self.features.maps(larger.contiguous(memory_format=torch.channels_last))
        return [x / scale for x, scale in zip(maps, FEATURE_SCALES, strict=True)]


class StyleGAN2Adversary:
    """StyleGAN2's residual discriminator with the logistic loss, and R1 every 16th step.

    ``dtype`` is that of its blocks in steps without the penalty, whose second derivatives need float32.
    """

    def __init__(
        self, generator: GeneratorConfig, *, r1_gamma: float, lr: float, dtype: torch.dtype, device: str
    ) -> None:
        self.network = Discriminator(DiscriminatorConfig.mirror(generator)).to(device)
        share = R1_INTERVAL / (R1_INTERVAL + 1)  # of the updates that are no penalty: StyleGAN2, appendix B
        betas = (BETAS[0] ** share, BETAS[1] ** share)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=lr * share, betas=betas)
        self.r1_gamma, self.dtype = r1_gamma, dtype

    def step(self, real: Images, generated: Images, number: int) -> tuple[Tensor, dict[str, float]]:
        penalised = number % R1_INTERVAL == 0
        images = real[0].detach().requires_grad_(penalised)
        real_logits = self.network(images, real[1], dtype=torch.float32 if penalised else self.dtype)
        fakes = self.network(generated[0].detach(), generated[1], dtype=self.dtype)
        loss = losses.discriminator_gan_loss(real_logits, fakes)
        penalty = R1_INTERVAL * self.r1_gamma / 2 * losses.r1_penalty(images, real_logits) if penalised else 0.0
        step(self.optimizer, loss + penalty)
        self.network.requires_grad_(False)
        wanted = losses.generator_gan_loss(self.network(*generated, dtype=self.dtype))
        self.network.requires_grad_(True)
        return wanted, {"d_loss": loss.item(), "sign": real_logits.detach().sign().mean().item()}
