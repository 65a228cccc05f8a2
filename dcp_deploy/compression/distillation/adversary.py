"""The adversarial part of a step: updates of the discriminators, and the GAN losses of the student."""

from __future__ import annotations

import torch
from torch import Tensor

from ...generators import Generator
from ...generators.latents import stream
from . import losses
from .augmentation import augment, draw_changes
from .batch import Batch, Outputs, generate, real_images
from .feature_adversary import discriminator_maps
from .optimizers import UNSCALED, Sums, apply_gradients, backward
from .recipe import R1_INTERVAL, terms_at
from .state import TrainingSetup, TrainingState

Labelled = tuple[Tensor, Tensor | None]
"""Images [B, 3, H, W], and their classes if the generator is class-conditional."""


def update_discriminators(
    state: TrainingState, setup: TrainingSetup, parts: list[Batch], outputs: Outputs | None
) -> Sums:
    """Update each discriminator once on real and generated images; return their losses.

    ``outputs`` are those of the whole batch, if they are computed already; else each part's images are generated here.
    """

    @torch.no_grad()
    def images_of(generator: Generator, part: Batch, name: str) -> Tensor:
        return generate(generator, part, setup, name, state.step, features=False)[0]

    terms = terms_at(setup.config, state.step)
    reals = None if setup.data is None else real_images(state, setup)
    if state.feature_discriminator is not None:
        state.feature_discriminator.follow()
    values = Sums()
    for index, part in enumerate(parts):
        share = len(part.z) / setup.config.batch
        image = outputs.image.detach() if outputs else images_of(state.student, part, "student")
        if reals is not None:
            real, real_c = reals[0][index :: len(parts)], None if reals[1] is None else reals[1][index :: len(parts)]
        else:
            real, real_c = outputs.target if outputs else images_of(setup.teacher, part, "teacher"), part.c
        real, image = _augmented(state, setup, part, real, "real"), _augmented(state, setup, part, image, "drawn")
        last = index == len(parts) - 1
        if terms.gan:
            with setup.team.summing(state.discriminator, last=last):
                values.add(_discriminate(state, setup, (real, real_c), (image, part.c), share), share)
        if terms.feature_gan:
            assert state.feature_discriminator is not None
            with setup.team.summing(state.feature_discriminator, last=last):
                values.add(_discriminate_features(state, setup, real, image, share), share)
    if terms.gan:
        apply_gradients([state.discriminator_optimizer], state.discriminator_scaler)
    if terms.feature_gan:
        assert state.feature_optimizer is not None
        apply_gradients([state.feature_optimizer], UNSCALED)
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
    if config.augment_target:
        values["real_sign"] = real_logits.detach().sign().mean()
    if penalise:
        values["r1"] = losses.r1_penalty(real, real_logits)
        total = total + 0.5 * config.r1 * R1_INTERVAL * values["r1"]
    backward(total * share, state.discriminator_scaler)
    return values


def _discriminate_features(
    state: TrainingState, setup: TrainingSetup, real: Tensor, image: Tensor, share: float
) -> dict[str, Tensor]:
    """Compute the feature discriminator's loss on a part and add up its gradients."""
    assert state.feature_discriminator is not None
    with torch.no_grad():
        real_maps, maps = _feature_maps(setup, real), _feature_maps(setup, image)
    loss = losses.discriminator_hinge_loss(state.feature_discriminator(real_maps), state.feature_discriminator(maps))
    backward(loss * share, UNSCALED)
    return {"feature_discriminator": loss}


def student_adversarial_losses(
    state: TrainingState, setup: TrainingSetup, batch: Batch, image: Tensor
) -> dict[str, Tensor]:
    """Return the GAN losses of the student's images that this step has. Gradients go to the images only."""
    terms, values = terms_at(setup.config, state.step), dict[str, Tensor]()
    if not (terms.gan or terms.feature_gan):
        return values
    image = _augmented(state, setup, batch, image, "student")
    if terms.gan:
        state.discriminator.requires_grad_(False)
        values["gan"] = losses.generator_gan_loss(state.discriminator(image, batch.c, dtype=setup.config.dtype))
        state.discriminator.requires_grad_(True)
    if terms.feature_gan:
        assert state.feature_discriminator is not None
        state.feature_discriminator.requires_grad_(False)
        values["feature_gan"] = losses.generator_hinge_loss(state.feature_discriminator(_feature_maps(setup, image)))
        state.feature_discriminator.requires_grad_(True)
    return values


def _feature_maps(setup: TrainingSetup, images: Tensor) -> list[Tensor]:
    assert setup.perceptual is not None
    with setup.autocast():
        return discriminator_maps(setup.perceptual, images)


def _augmented(state: TrainingState, setup: TrainingSetup, batch: Batch, images: Tensor, name: str) -> Tensor:
    """Return the images, one at each place of the batch, as the discriminators see them."""
    config = setup.config
    if not config.augment_target:
        return images
    sources = [stream(config.seed, "augment", name, state.step, place) for place in batch.places]
    return augment(images, draw_changes(state.augmentation.p, (images.shape[2], images.shape[3]), sources))
