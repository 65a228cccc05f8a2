"""How a student is distilled: every number of the recipe, and the recipes by effort."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, field_validator, model_validator
from pydantic.dataclasses import dataclass

from ...efforts import EffortName
from ...errors import UsageError
from ...extensions.functions import find_function, parse_loss
from ...generators import NoiseMode

TrainingPrecision = Literal["fp32", "bf16", "fp16"]
OptimizerName = Literal["adam", "muon"]

R1_INTERVAL = 16
PATH_INTERVAL = 4

Count = Annotated[int, Field(ge=1)]
AtLeast2 = Annotated[int, Field(ge=2)]
Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
ShareBelow1 = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, config=ConfigDict(strict=True, allow_inf_nan=False, extra="forbid"))
class DistillConfig:
    """Settings of :func:`distill`. The defaults are StyleKD's, which DCP-GAN uses too (450,000 steps of 16 images).

    Loss weights: ``gan``, ``l1``, ``perceptual``, ``relation`` act in every step, ``r1`` (gamma) every 16th step on
    the discriminator, ``path_length`` every 4th on the generator. A weight of 0 switches a term off; ``gan`` 0 also
    leaves out the discriminator.

    Raises UsageError for a value out of range, and for values that do not fit together.
    """

    steps: Count = 450_000
    """Number of steps."""
    batch: AtLeast2 = 16
    """Images per step."""
    accumulate: Count = 1
    """Parts that the batch is split into, one after the other: less memory, the same gradients."""
    seed: int = 0
    """Seed of all random numbers."""
    lr: Positive = 0.002
    """Learning rate of student and discriminator."""
    beta1: ShareBelow1 = 0.0
    """Momentum of the student's optimiser; 0 with a discriminator, as in StyleGAN."""
    optimizer: OptimizerName = "adam"
    """Optimiser of the student: Adam, or Muon for the convolutions and Adam for the rest."""
    lr_end: Share = 1.0
    """Share of ``lr`` left at the last step, along a half cosine; 1 keeps it constant."""
    gan: Weight = 1.0
    """Weight of the GAN loss; 0 also leaves out the discriminator."""
    l1: Weight = 3.0
    """Weight of the L1 distance to the teacher's image."""
    perceptual: Weight = 3.0
    """Weight of the distance in the features of the perceptual network."""
    relation: Weight = 30.0
    """Weight of StyleKD's relation loss, which compares how the images of a group differ."""
    r1: Weight = 10.0
    """Gamma of the R1 penalty on the discriminator, every 16th step."""
    path_length: Weight = 2.0
    """Weight of the path length penalty on the generator, every 4th step."""
    relation_group: AtLeast2 = 4
    """Images whose relations are compared: a GPU's share in StyleKD."""
    gan_start: ShareBelow1 = 0.0
    """Share of the steps before the discriminator joins."""
    discriminator_width: Positive = 1.0
    """Channels, as a share of the full-size discriminator's."""
    mixing: Share = 0.9
    """Probability that a step mixes two latents, at one random slot."""
    rare: Share = 0.0
    """Share of a step's latents that are rare: the farthest from the mean of four that are drawn (:mod:`.rare`)."""
    noise: NoiseMode = "random"
    """Noise maps in training; "const" trains on the stored maps that an export ships."""
    mirror: bool = False
    """Flip half of the real images left to right."""
    ema_half_life: Positive = 5000.0
    """Images after which a weight counts half in the moving average."""
    precision: TrainingPrecision = "fp32"
    """Number format of the convolutions in training; bf16 and fp16 are for GPUs."""
    log_every: Count = 100
    """Steps between two entries of the history."""
    losses: tuple[str, ...] = ()
    """Losses of your own, see :class:`LossFunction`: "module:function=2.5", or the name of an entry point and a weight.

    The weight is 1 if it is left out. The names of entry points are those of the group ``dcp_deploy.losses``.
    """
    measure_every: int = Field(default=10_000, ge=0)
    """Steps between two measurements of quality, where it can be measured; 0: never."""
    checkpoint_every: Count = 1000
    """Steps between two checkpoints."""

    @model_validator(mode="wrap")
    @classmethod
    def _raise_usage_errors(cls, values: Any, check: ModelWrapValidatorHandler[DistillConfig]) -> DistillConfig:
        try:
            return check(values)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            remedy = problem["msg"].replace("Input should be", "Give a value that is")
            raise UsageError(f"{problem['loc'][0]} cannot be {problem['input']!r}", f"{remedy}.") from error

    @field_validator("*", mode="wrap")
    @classmethod
    def _keep_the_type(cls, value: Any, check: Any) -> Any:
        """Check the value but keep its type: the keys of runs differ between 0 and 0.0."""
        check(value)
        return value

    def __post_init__(self) -> None:
        own = self.own_losses
        compared = self.l1 or self.perceptual or self.relation or own
        if not (self.gan or compared):
            raise UsageError("all loss weights are 0, so there is nothing to train", "Set l1, perceptual or gan.")
        if self.first_gan_step and not compared:
            raise UsageError(
                f"the GAN loss is the only one and starts at step {self.first_gan_step}", "Set gan_start to 0."
            )

    @property
    def own_losses(self) -> dict[str, float]:
        """The losses of ``losses`` with their weights. Raises UsageError for another form, and for one named twice."""
        parsed = [parse_loss(text) for text in self.losses]
        found = dict(parsed)
        if len(found) < len(parsed):
            twice = next(name for name in found if sum(name == other for other, _ in parsed) > 1)
            raise UsageError(f"the loss {twice} is given twice", "Give it once, with the sum of the weights.")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers of the recipe, ready for JSON; losses of your own with the hash of their source.

        Without such losses the entry is left out. With them their modules are imported.
        """
        values = asdict(self)
        del values["losses"]
        own = [
            {"name": name, "weight": weight, **find_function("loss", name).identity}
            for name, weight in self.own_losses.items()
        ]
        return {**values, "losses": own} if own else values

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, before the correction for lazy regularisation."""
        done = step / max(self.steps - 1, 1)
        return self.lr * (self.lr_end + (1 - self.lr_end) * 0.5 * (1 + math.cos(math.pi * done)))

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the convolutions."""
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]

    @property
    def first_gan_step(self) -> int:
        """First step with a discriminator."""
        return math.floor(self.gan_start * self.steps)

    @property
    def measured_steps(self) -> tuple[int, ...]:
        """Numbers of steps after which quality is measured."""
        return (*range(self.measure_every, self.steps, self.measure_every), self.steps) if self.measure_every else ()

    @property
    def ema_decay(self) -> float:
        """Share of itself that the moving average keeps per step."""
        return math.pow(0.5, self.batch / self.ema_half_life)


class Terms(NamedTuple):
    """Terms of a step that not every step has."""

    gan: bool
    r1: bool
    path_length: bool


def terms_at(config: DistillConfig, step: int) -> Terms:
    """Return the terms of a step: the discriminator joins late, and the two penalties act in every few steps."""
    gan = config.gan > 0 and step >= config.first_gan_step
    r1 = gan and config.r1 > 0 and step % R1_INTERVAL == 0
    return Terms(gan, r1, config.path_length > 0 and step % PATH_INTERVAL == 0)


RECIPES: dict[EffortName, DistillConfig] = {
    # A few minutes on two cores at 64 px. At this size the relation loss and a discriminator take most of the time, and
    # more steps without them gain more. Measured on the demo, one seed each: 1800 steps without either ended at FID 3.5
    # and mode coverage 0.87 after 292 s. 800 steps with relation, and a discriminator of half width for the last
    # quarter, ended at 5.7 and 0.86 after 235 s, and the L1 distance to the teacher grew during that quarter. The
    # optimiser, momentum, learning rate and the share of mixed latents were measured too (docs/distillation.md).
    "quick": DistillConfig(
        steps=1800,
        batch=8,
        lr=0.006,
        lr_end=0.1,
        beta1=0.9,
        optimizer="muon",
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
    # An evening on one GPU: the published recipe with fewer steps, and a falling learning rate because it ends early.
    "standard": DistillConfig(steps=20_000, lr_end=0.1, path_length=0.0, measure_every=2000, checkpoint_every=500),
    "paper": DistillConfig(log_every=500, checkpoint_every=2000),
}
"""The recipe of each effort. Change numbers with ``dataclasses.replace(RECIPES[effort], steps=..., seed=...)``."""

DEMO_RECIPES: dict[EffortName, DistillConfig] = {
    # An hour on one core; the general recipe has a discriminator and takes far longer. This is "quick" with more steps,
    # a learning rate that starts higher and ends lower, a longer average, and rare latents. Results are in
    # docs/quality.md.
    "standard": replace(
        RECIPES["quick"],
        steps=14_000,
        lr=0.012,
        lr_end=0.02,
        rare=0.5,
        ema_half_life=1000.0,
        log_every=100,
        measure_every=3000,
        checkpoint_every=500,
    ),
}
"""Recipes that replace these for the demo (64 px)."""
