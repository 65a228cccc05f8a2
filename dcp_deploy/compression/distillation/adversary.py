"""The adversarial part of a step: the update of the discriminator, and the GAN loss of the student."""

from __future__ import annotations

import torch
from torch import Tensor

from ...generators import Generator
from . import losses
from .batch import Batch, Outputs, generate, real_images
from .optimizers import Sums, apply_gradients, backward
from .recipe import R1_INTERVAL, terms_at
from .state import TrainingSetup, TrainingState

Labelled = tuple[Tensor, Tensor | None]
"""Images [B, 3, H, W], and their classes if the generator is class-conditional."""


def update_discriminator(
    state: TrainingState, setup: TrainingSetup, parts: list[Batch], outputs: Outputs | None
) -> Sums:
    """Update the discriminator once on real and generated images; return its losses.

    ``outputs`` are those of the whole batch, if they are computed already; else each part's images are generated here.
    """

    @torch.no_grad()
    def images_of(generator: Generator, part: Batch, name: str) -> Tensor:
        return generate(generator, part, setup, name, state.step, features=False)[0]

    reals = None if setup.data is None else real_images(state, setup)
    values = Sums()
    for index, part in enumerate(parts):
        share = len(part.z) / setup.config.batch
        image = outputs.image.detach() if outputs else images_of(state.student, part, "student")
        if reals is not None:
            real, real_c = reals[0][index :: len(parts)], None if reals[1] is None else reals[1][index :: len(parts)]
        else:
            real, real_c = outputs.target if outputs else images_of(setup.teacher, part, "teacher"), part.c
        with setup.team.summing(state.discriminator, last=index == len(parts) - 1):
            values.add(_discriminate(state, setup, (real, real_c), (image, part.c), share), share)
    apply_gradients([state.discriminator_optimizer], state.discriminator_scaler)
    return values


def _discriminate(
    state: TrainingState, setup: TrainingSetup, real_and_c: Labelled, generated: Labelled, share: float
) -> dict[str, Tensor]:
    """Compute the discriminator's losses on a part and add up their gradients.

    Every 16th step adds the R1 penalty, weighted to make up for the steps without it.
    """
    config, penalise = setup.config, terms_at(setup.config, state.step).r1
    real, real_c = real_and_c
    real = real.detach().requires_grad_(penalise)
    # A gradient of a gradient needs float32.
    real_logits = state.discriminator(real, real_c, dtype=torch.float32 if penalise else config.dtype)
    generated_logits = state.discriminator(*generated, dtype=config.dtype)
    total = losses.discriminator_gan_loss(real_logits, generated_logits)
    values = {"discriminator": total}
    if penalise:
        values["r1"] = losses.r1_penalty(real, real_logits)
        total = total + 0.5 * config.r1 * R1_INTERVAL * values["r1"]
    backward(total * share, state.discriminator_scaler)
    return values


def gan_loss(state: TrainingState, setup: TrainingSetup, batch: Batch, image: Tensor) -> Tensor:
    """Return the GAN loss of the student's images. Gradients go to the images only."""
    state.discriminator.requires_grad_(False)
    loss = losses.generator_gan_loss(state.discriminator(image, batch.c, dtype=setup.config.dtype))
    state.discriminator.requires_grad_(True)
    return loss
