"""One step of distillation: its losses, and the updates of discriminator, student and average.

A batch may be taken in parts, one after the other (``accumulate``) and over several processes. Every loss is a mean
over samples or over groups of samples, so the parts' gradients, weighted by their share, add up to the whole batch's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...generators.latents import draw_latents, stream
from ...metrics.published import Lpips
from . import losses
from .adversary import student_adversarial_losses, update_discriminators
from .batch import Batch, Drawn, draw_batch, draw_both, sample_streams
from .optimizers import Sums, apply_gradients, backward, set_rates
from .recipe import PATH_INTERVAL, DistillConfig, terms_at
from .state import TrainingSetup, TrainingState

PATH_MEAN_RATE = 0.01


def train_step(state: TrainingState, run: TrainingSetup) -> dict[str, float]:
    """Update discriminator, student and average once; returns the step's losses by name."""
    batch = draw_batch(run, state.step).to(run.device)
    set_rates(state, run)
    values = update_all(state, run, batch)
    if terms_at(run.config, state.step).path_length:
        values["path_length"] = _regularise_path(state, run)
    state.update_ema(run.config.ema_decay)
    state.step += 1
    numbers = as_numbers(values, run)
    return {**numbers, **_adapt(state, run.config, numbers)}


def as_numbers(values: dict[str, Tensor], run: TrainingSetup) -> dict[str, float]:
    """Of the whole batch, all in one copy: on a GPU each one waits for all that is still to be computed."""
    return dict(zip(values, run.team.add(torch.stack(list(values.values()))).tolist(), strict=True))


def _adapt(state: TrainingState, config: DistillConfig, numbers: dict[str, float]) -> dict[str, float]:
    """Adapt the augmentation to the whole batch's logits, alike in every process; returns the p that the step had."""
    if "real_sign" not in numbers:
        return {}
    had = state.augmentation.p
    images = config.augment_images
    state.augmentation.adapt(numbers["real_sign"], target=config.augment_target, batch=config.batch, images=images)
    return {"augment": had}


# ---- the updates ----


def update_all(state: TrainingState, run: TrainingSetup, batch: Batch) -> dict[str, Tensor]:
    """Update the discriminators that there are, then the student; returns the losses of this process's batch, scalars.

    ``batch`` is drawn once where it fits into one part. Else each part is drawn for either update, the same both times.
    """
    parts = batch.parts(run.config.accumulate)
    drawn = draw_both(state, run, batch) if len(parts) == 1 else None
    values = Sums()
    terms = terms_at(run.config, state.step)
    if terms.gan or terms.feature_gan:
        values |= update_discriminators(state, run, parts, drawn)
    for part in parts:
        share = len(part.z) / run.config.batch
        of_part = _student_losses(state, run, part, drawn or draw_both(state, run, part))
        backward(of_part["total"] * share, state.student_scaler)
        values.add(of_part, share)
    apply_gradients(run, state.student, state.student_optimizer, state.student_scaler)
    return values


def _student_losses(state: TrainingState, run: TrainingSetup, batch: Batch, drawn: Drawn) -> dict[str, Tensor]:
    """Every loss of the student, and their weighted sum as "total"."""
    config, image, target = run.config, drawn.image, drawn.target
    values = student_adversarial_losses(state, run, batch, image)
    if run.mask is not None and (config.l1 or config.perceptual or config.guide):
        shown = run.mask(target)
        image, target = image * shown, target * shown
    if config.l1:
        values["l1"] = losses.l1_loss(image, target)
    if config.perceptual and run.perceptual:
        values["perceptual"] = _perceptual_loss(run, image, target)
    if config.guide:
        values["guide"] = _guide_loss(run, image, target)
    if config.relation:
        values["relation"] = losses.relation_loss(
            drawn.features, drawn.moved, drawn.target_features, drawn.target_moved, group=config.relation_group
        )
    values["total"] = torch.stack([getattr(config, name) * value for name, value in values.items()]).sum()
    return values


def _guide_loss(run: TrainingSetup, image: Tensor, target: Tensor) -> Tensor:
    """How far student and teacher are apart in the features of the teacher's own discriminator, which does not learn.

    Not that discriminator's verdict, which is the other use it could have: it has no lowest value, and a network that
    does not answer is soon fooled, so that the student would leave the teacher for whatever pleases it. Its features
    are lowest apart where both images are the same, and know what mattered in telling this teacher from its data.
    """
    guide, dtype = run.guide, run.config.dtype
    assert guide is not None
    with torch.no_grad():
        target_maps = guide.features(target, dtype=dtype)
    return losses.feature_matching_loss(guide.features(image, dtype=dtype), target_maps)


def _perceptual_loss(run: TrainingSetup, image: Tensor, target: Tensor) -> Tensor:
    perceptual = run.perceptual
    assert perceptual is not None
    with run.autocast():
        if isinstance(perceptual, Lpips):
            return perceptual(image, target).float().mean()
        with torch.no_grad():
            target_maps = perceptual(target)
        maps = perceptual(image)
    return losses.perceptual_loss(maps, target_maps)


# ---- path length ----


def _regularise_path(state: TrainingState, run: TrainingSetup) -> Tensor:
    """Half a batch through the path length penalty ``mean (length - running mean)^2``, in float32 and in an update of
    its own.

    Karras et al. 2020 (StyleGAN2, section 3.2). It derives a derivative through the whole student. The running mean
    follows the whole half batch, so where that comes in parts their lengths are measured before any is penalised.
    """
    config = run.config
    half = config.batch // 2  # at least a place for every part, as check_split demands
    places = range(half)[run.team.rank :: run.team.size]
    parts = [tuple(places[index :: config.accumulate]) for index in range(config.accumulate)]
    lengths = [_path_lengths(state, run, part, graph=len(parts) == 1) for part in parts]
    total = torch.stack([part.detach().sum() for part in lengths]).sum()
    mean = state.path_mean.lerp(run.team.add(total) / half, PATH_MEAN_RATE)
    penalty = torch.zeros_like(mean)
    for part in parts:
        drawn = lengths[0] if len(parts) == 1 else _path_lengths(state, run, part, graph=True)
        share = (drawn - mean).square().sum() / half
        backward(config.path_length * PATH_INTERVAL * share, state.student_scaler)
        penalty += share.detach()
    apply_gradients(run, state.student, state.student_optimizer, state.student_scaler)
    state.path_mean.copy_(mean)
    return penalty


def _path_lengths(state: TrainingState, run: TrainingSetup, places: tuple[int, ...], *, graph: bool) -> Tensor:
    """One length for each of these places of the half batch."""
    config, step = run.config, state.step
    z, c = draw_latents(run.teacher.config, config.batch // 2, stream(config.seed, "path length", step))
    chosen = list(places)
    ws = state.student.mapping(z[chosen].to(run.device), None if c is None else c[chosen].to(run.device))
    source = sample_streams(run, places, "noise", "path length", step)
    images = state.student.synthesis(ws, noise=config.noise, generator=source)
    draws = (stream(config.seed, "path length", step, place) for place in places)
    noise = torch.stack([torch.randn(images.shape[1:], generator=draw) for draw in draws]).to(run.device)
    return losses.path_lengths(images, ws, noise, graph=graph)
