"""What judges the student's images: the discriminators' updates, and what they tell the student."""

from __future__ import annotations

import torch
from torch import Tensor

from ...generators.latents import stream
from . import losses
from .augmentation import augment, draw_changes
from .batch import Batch, Drawn, draw_image, real_images
from .feature_adversary import judged_maps
from .optimizers import UNSCALED, Sums, apply_gradients, backward
from .recipe import R1_INTERVAL, terms_at
from .state import TrainingSetup, TrainingState

Labelled = tuple[Tensor, Tensor | None]
"""Images [B, 3, R, R], and their classes where the generator has any."""


def update_discriminators(state: TrainingState, run: TrainingSetup, parts: list[Batch], drawn: Drawn | None) -> Sums:
    """One update of each on real and drawn images; returns their losses."""
    terms = terms_at(run.config, state.step)
    reals = None if run.data is None else real_images(state, run)
    if state.feature_discriminator is not None:
        state.feature_discriminator.follow()
    values = Sums()
    for index, part in enumerate(parts):
        share = len(part.z) / run.config.batch
        image = drawn.image.detach() if drawn else draw_image(state.student, part, run, "student", state.step)
        if reals is not None:
            real, real_c = reals[0][index :: len(parts)], None if reals[1] is None else reals[1][index :: len(parts)]
        else:
            real = drawn.target if drawn else draw_image(run.teacher, part, run, "teacher", state.step)
            real_c = part.c
        real, image = _shown(state, run, part, real, "real"), _shown(state, run, part, image, "drawn")
        if terms.gan:
            values.add(_discriminate(state, run, (real, real_c), (image, part.c), share), share)
        if terms.feature_gan:
            values.add(_discriminate_features(state, run, real, image, share), share)
    if terms.gan:
        apply_gradients(run, state.discriminator, state.discriminator_optimizer, state.discriminator_scaler)
    if terms.feature_gan:
        assert state.feature_discriminator is not None and state.feature_optimizer is not None
        apply_gradients(run, state.feature_discriminator, state.feature_optimizer, UNSCALED)
    return values


def _discriminate(
    state: TrainingState, run: TrainingSetup, real: Labelled, drawn: Labelled, share: float
) -> dict[str, Tensor]:
    """The discriminator's losses on a part, whose gradients wait for the update.

    Every 16th step with the R1 penalty, of what it is shown, weighted to make up for the rest.
    """
    values = _discriminator_losses(state, run, real, drawn)
    total = values["discriminator"]
    if "r1" in values:
        total = total + 0.5 * run.config.r1 * R1_INTERVAL * values["r1"]
    backward(total * share, state.discriminator_scaler)
    return values


def _discriminate_features(
    state: TrainingState, run: TrainingSetup, real: Tensor, image: Tensor, share: float
) -> dict[str, Tensor]:
    """The same of the discriminator of features."""
    assert state.feature_discriminator is not None
    with torch.no_grad():
        real_maps, maps = _judged_maps(run, real), _judged_maps(run, image)
    loss = losses.discriminator_hinge_loss(state.feature_discriminator(real_maps), state.feature_discriminator(maps))
    backward(loss * share, UNSCALED)
    return {"feature_discriminator": loss}


def _discriminator_losses(
    state: TrainingState, run: TrainingSetup, real_and_c: Labelled, drawn_and_c: Labelled
) -> dict[str, Tensor]:
    penalise = terms_at(run.config, state.step).r1
    real, real_c = real_and_c
    real = real.detach().requires_grad_(penalise)
    # A gradient of a gradient needs float32.
    real_logits = state.discriminator(real, real_c, dtype=torch.float32 if penalise else run.config.dtype)
    drawn_logits = state.discriminator(*drawn_and_c, dtype=run.config.dtype)
    values = {"discriminator": losses.discriminator_gan_loss(real_logits, drawn_logits)}
    if run.config.augment_target:
        values["real_sign"] = real_logits.detach().sign().mean()
    return {**values, "r1": losses.r1_penalty(real, real_logits)} if penalise else values


def student_adversarial_losses(
    state: TrainingState, run: TrainingSetup, batch: Batch, image: Tensor
) -> dict[str, Tensor]:
    """The GAN losses that this step has of the student's images. Their gradients go to the images alone."""
    terms, values = terms_at(run.config, state.step), dict[str, Tensor]()
    if not (terms.gan or terms.feature_gan):
        return values
    shown = _shown(state, run, batch, image, "student")
    if terms.gan:
        state.discriminator.requires_grad_(False)
        values["gan"] = losses.generator_gan_loss(state.discriminator(shown, batch.c, dtype=run.config.dtype))
        state.discriminator.requires_grad_(True)
    if terms.feature_gan:
        assert state.feature_discriminator is not None
        state.feature_discriminator.requires_grad_(False)
        values["feature_gan"] = losses.generator_hinge_loss(state.feature_discriminator(_judged_maps(run, shown)))
        state.feature_discriminator.requires_grad_(True)
    return values


def _judged_maps(run: TrainingSetup, images: Tensor) -> list[Tensor]:
    assert run.perceptual is not None
    with run.autocast():
        return judged_maps(run.perceptual, images)


def _shown(state: TrainingState, run: TrainingSetup, batch: Batch, images: Tensor, name: str) -> Tensor:
    """What is judged of these images, one at each of the batch's places: with augmentation not they themselves."""
    config = run.config
    if not config.augment_target:
        return images
    sources = [stream(config.seed, "augment", name, state.step, place) for place in batch.places]
    return augment(images, draw_changes(state.augmentation.p, images.shape[-1], sources))
