"""The discriminator's update."""

from __future__ import annotations

import torch
from torch import Tensor

from . import losses
from .recipe import R1_INTERVAL, terms_at
from .training_batch import Batch
from .training_drawing import Drawn, draw_image, real_images
from .training_optimizers import Sums, apply_gradients, backward
from .training_run import Run
from .training_state import TrainingState


def update_discriminator(state: TrainingState, run: Run, parts: list[Batch], drawn: Drawn | None) -> Sums:
    """One update on real and drawn images; every 16th step with the R1 penalty, weighted to make up for the rest."""
    reals = None if run.data is None else real_images(state, run)
    values = Sums()
    for index, part in enumerate(parts):
        share = len(part.z) / run.config.batch
        image = drawn.image.detach() if drawn else draw_image(state.student, part, run, "student", state.step)
        if reals is not None:
            real, real_c = reals[0][index :: len(parts)], None if reals[1] is None else reals[1][index :: len(parts)]
        else:
            real = drawn.target if drawn else draw_image(run.teacher, part, run, "teacher", state.step)
            real_c = part.c
        terms = _discriminator_losses(state, run, (real, real_c), (image, part.c))
        total = terms["discriminator"]
        if "r1" in terms:
            total = total + 0.5 * run.config.r1 * R1_INTERVAL * terms["r1"]
        backward(total * share, state.discriminator_scaler)
        values.add(terms, share)
    apply_gradients(run, state.discriminator, state.discriminator_optimizer, state.discriminator_scaler)
    return values


def _discriminator_losses(
    state: TrainingState, run: Run, real_and_c: tuple[Tensor, Tensor | None], drawn_and_c: tuple[Tensor, Tensor | None]
) -> dict[str, Tensor]:
    penalise = terms_at(run.config, state.step).r1
    real, real_c = real_and_c
    real = real.detach().requires_grad_(penalise)
    # A gradient of a gradient needs float32.
    real_logits = state.discriminator(real, real_c, dtype=torch.float32 if penalise else run.config.dtype)
    drawn_logits = state.discriminator(*drawn_and_c, dtype=run.config.dtype)
    values = {"discriminator": losses.discriminator_gan_loss(real_logits, drawn_logits)}
    return {**values, "r1": losses.r1_penalty(real, real_logits)} if penalise else values
