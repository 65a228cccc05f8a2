"""How a student is distilled: every number of the recipe, and the recipes by effort."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import torch

from ...errors import UsageError
from ...generators import NoiseMode

EffortName = Literal["quick", "standard", "paper"]
TrainingPrecision = Literal["fp32", "bf16", "fp16"]

R1_INTERVAL = 16
PATH_INTERVAL = 4
PAIR_LOSSES = ("l1", "perceptual", "relation", "guide")  # what compares the student with the teacher


@dataclass(frozen=True)
class DistillConfig:
    """Settings of :func:`distill`. The defaults are StyleKD's, which DCP-GAN uses too (450,000 steps of 16 images).

    Loss weights: ``gan``, ``l1``, ``perceptual``, ``relation`` act in every step, ``r1`` (gamma) every 16th step on
    the discriminator, ``path_length`` every 4th on the generator; 0 switches a term off, ``gan`` 0 the discriminator.
    What StyleKD has not (``guide``, ``feature_gan``, ``augment_target``) is off.
    """

    steps: int = 450_000
    batch: int = 16
    accumulate: int = 1  # parts that the batch is taken in, one after the other: less memory, the same gradients
    seed: int = 0
    lr: float = 0.002
    beta1: float = 0.0  # momentum of the student's Adam; 0 while it follows a discriminator, as in StyleGAN
    lr_end: float = 1.0  # share of ``lr`` left at the last step, along a half cosine; 1 keeps it constant

    gan: float = 1.0
    l1: float = 3.0
    perceptual: float = 3.0
    relation: float = 30.0
    r1: float = 10.0
    path_length: float = 2.0
    guide: float = 0.0  # distance in the features of the teacher's own discriminator; 10 in pix2pixHD
    feature_gan: float = 0.0  # a discriminator of the perceptual loss's features, as in Projected GANs, there 1

    relation_group: int = 4  # images whose relations are compared: a GPU's share in StyleKD, 4 GPUs for 16 images
    gan_start: float = 0.0  # share of the steps before discriminators and GAN losses join
    discriminator_width: float = 1.0  # channels, as a share of the full-size discriminator's
    mixing: float = 0.9  # probability that a step mixes two latents, at one random slot
    noise: NoiseMode = "random"  # "const" trains on the stored maps that an export ships
    mirror: bool = False  # flip half of the real images left to right
    ema_half_life: float = 5000.0  # images after which a weight counts half in the moving average

    augment_target: float = 0.0  # of E[sign(D(real))], which adapts the changes of what is judged; 0.6 in ADA, 0: none
    augment_images: float = 500_000.0  # over which their probability can rise by 1, or fall

    precision: TrainingPrecision = "fp32"  # of the convolutions in training; bf16 and fp16 are for GPUs

    log_every: int = 100
    measure_every: int = 10_000  # quality, where it can be measured; 0: never
    checkpoint_every: int = 1000

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.batch < 2:
            raise UsageError(f"batch must be at least 2, got {self.batch}", "relations are between images of a batch")
        if self.measure_every < 0:
            raise UsageError(f"measure_every must be at least 0, got {self.measure_every}")
        if self.relation_group < 2:
            raise UsageError(f"relation_group must be at least 2, got {self.relation_group}")
        for name in ("gan", "feature_gan", *PAIR_LOSSES, "r1", "path_length"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise UsageError(f"{name} must be a finite number of at least 0, got {getattr(self, name)}")
        compared = any(getattr(self, name) for name in PAIR_LOSSES)
        if not (self.has_discriminator or compared):
            raise UsageError("all loss weights are 0, so there is nothing to train", "set l1, perceptual or gan")
        for name in ("lr", "discriminator_width", "ema_half_life", "augment_images"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise UsageError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("mixing", "lr_end"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if not 0 <= self.beta1 < 1:
            raise UsageError(f"beta1 must be at least 0 and below 1, got {self.beta1}")
        if not 0 <= self.gan_start < 1:
            raise UsageError(f"gan_start must be at least 0 and below 1, got {self.gan_start}", "gan=0 leaves it out")
        if self.first_gan_step and not compared:
            raise UsageError(
                f"the GAN loss is the only one and starts at step {self.first_gan_step}", "set gan_start to 0"
            )
        if self.noise not in ("const", "random", "none"):
            raise UsageError(f"unknown noise {self.noise!r}", "choose const, random or none")
        if self.precision not in get_args(TrainingPrecision):
            raise UsageError(f"unknown precision {self.precision!r}", "choose fp32, bf16 or fp16")
        self._check_augmentation()

    def _check_augmentation(self) -> None:
        if not 0 <= self.augment_target < 1:
            raise UsageError(
                f"augment_target must be at least 0 and below 1, got {self.augment_target}",
                "it is a mean of signs: 0.6 as published, 0 for no augmentation",
            )
        if self.augment_target and not self.gan:
            raise UsageError(
                "augmentation follows how well the discriminator knows its images, and this recipe has none",
                "take a recipe with one (effort paper, or standard but on the demo), or give gan a weight",
            )

    def learning_rate(self, step: int) -> float:
        """Learning rate of a step, before the correction for lazy regularisation."""
        done = step / max(self.steps - 1, 1)
        return self.lr * (self.lr_end + (1 - self.lr_end) * 0.5 * (1 + math.cos(math.pi * done)))

    @property
    def dtype(self) -> torch.dtype:
        """What convolutions compute in."""
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]

    @property
    def has_discriminator(self) -> bool:
        """Whether any discriminator looks at the student's images, and at real ones."""
        return self.gan > 0 or self.feature_gan > 0

    @property
    def first_gan_step(self) -> int:
        """The first step with a discriminator."""
        return math.floor(self.gan_start * self.steps)

    @property
    def measured_steps(self) -> tuple[int, ...]:
        """Numbers of steps after which quality is measured."""
        return (*range(self.measure_every, self.steps, self.measure_every), self.steps) if self.measure_every else ()

    @property
    def ema_decay(self) -> float:
        """What the moving average keeps of itself per step."""
        return math.pow(0.5, self.batch / self.ema_half_life)


class Terms(NamedTuple):
    """Which of the terms that are not in every step a step has."""

    gan: bool
    feature_gan: bool
    r1: bool
    path_length: bool


def terms_at(config: DistillConfig, step: int) -> Terms:
    """Of step ``step``: discriminators come in late, the two penalties now and then."""
    judged = step >= config.first_gan_step
    gan = config.gan > 0 and judged
    r1 = gan and config.r1 > 0 and step % R1_INTERVAL == 0
    return Terms(gan, config.feature_gan > 0 and judged, r1, config.path_length > 0 and step % PATH_INTERVAL == 0)


RECIPES: dict[EffortName, DistillConfig] = {
    # A few minutes on two cores at 64 px. There the relation loss and a discriminator cost more than all else and give
    # less than the steps they take the place of. Measured on the demo, one seed each: 1800 steps without either ended
    # at FID 3.5 and mode coverage 0.87 after 292 s; 800 with relation, and half a discriminator for the last quarter,
    # at 5.7 and 0.86 after 235 s, and the L1 distance to the teacher grew while the discriminator took part. Momentum,
    # the learning rate and the share of mixed latents are measured too (docs/distillation.md).
    "quick": DistillConfig(
        steps=1800,
        batch=8,
        lr=0.006,
        lr_end=0.1,
        beta1=0.9,
        gan=0.0,
        relation=0.0,
        path_length=0.0,
        mixing=0.5,
        noise="const",
        ema_half_life=200.0,
        log_every=50,
        measure_every=0,
        checkpoint_every=50,
    ),
    # An evening on one GPU: the recipe in short, with a falling learning rate because it ends early.
    "standard": DistillConfig(steps=20_000, lr_end=0.1, path_length=0.0, measure_every=2000, checkpoint_every=500),
    "paper": DistillConfig(log_every=500, checkpoint_every=2000),
}
"""The recipe of each effort. Change numbers with ``dataclasses.replace(RECIPES[effort], steps=..., seed=...)``."""

DEMO_RECIPES: dict[EffortName, DistillConfig] = {
    # Half an hour on two cores, where the general one would take half a day: quick's, longer, from a higher rate to a
    # lower one, with a longer average. What came of it is in docs/quality.md.
    "standard": replace(
        RECIPES["quick"],
        steps=12_000,
        lr=0.012,
        lr_end=0.02,
        ema_half_life=1000.0,
        log_every=100,
        measure_every=3000,
        checkpoint_every=500,
    ),
}
"""What takes their place for the demo, 64 px."""
