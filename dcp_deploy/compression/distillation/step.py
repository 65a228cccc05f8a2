"""One step of distillation: its losses, and the updates of discriminator, student and average.

A batch may be split into parts, computed one after the other (``accumulate``) or in several processes. Every loss is a
mean over samples or over groups of samples, so the parts' gradients, weighted by their share, add up to those of the
whole batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...generators.latents import draw_latents, stream
from ...metrics.published import Lpips
from . import losses
from .adversary import gan_loss, update_discriminator
from .batch import Batch, Outputs, draw_batch, generate_both, sample_streams
from .optimizers import Sums, apply_gradients, backward, set_rates
from .recipe import PATH_INTERVAL, terms_at
from .state import TrainingSetup, TrainingState

PATH_MEAN_RATE = 0.01


def train_step(state: TrainingState, setup: TrainingSetup) -> dict[str, float]:
    """Update discriminator, student and average once; return the step's losses by name."""
    batch = draw_batch(setup, state.step).to(setup.device)
    set_rates(state, setup)
    values = update_all(state, setup, batch)
    if terms_at(setup.config, state.step).path_length:
        values["path_length"] = regularise_path(state, setup)
    state.update_ema(setup.config.ema_decay)
    state.step += 1
    return as_numbers(values, setup)


def as_numbers(values: dict[str, Tensor], setup: TrainingSetup) -> dict[str, float]:
    """Return the losses of the whole batch. They are copied at once: on a GPU every copy waits for all computation."""
    return dict(zip(values, setup.team.add(torch.stack(list(values.values()))).tolist(), strict=True))


# ---- the updates ----


def update_all(state: TrainingState, setup: TrainingSetup, batch: Batch) -> dict[str, Tensor]:
    """Update the discriminator, then the student; return the losses of this process's batch, scalars.

    The images of an undivided batch serve both updates. The images of a part are generated again for each, the same
    both times.
    """
    count = setup.config.accumulate
    parts = [batch.part(index, count) for index in range(count)]
    outputs = generate_both(state, setup, batch) if count == 1 else None
    values = Sums()
    if terms_at(setup.config, state.step).gan:
        values |= update_discriminator(state, setup, parts, outputs)
    for part in parts:
        share = len(part.z) / setup.config.batch
        of_part = _student_losses(state, setup, part, outputs or generate_both(state, setup, part))
        with setup.team.summing(state.student, last=part is parts[-1]):
            backward(of_part["total"] * share, state.student_scaler)
        values.add(of_part, share)
    apply_gradients(state.student_optimizers(), state.student_scaler)
    return values


def _student_losses(state: TrainingState, setup: TrainingSetup, batch: Batch, outputs: Outputs) -> dict[str, Tensor]:
    """Return every loss of the student, and their weighted sum as "total"."""
    config, image, target = setup.config, outputs.image, outputs.target
    values: dict[str, Tensor] = {}
    if terms_at(config, state.step).gan:
        values["gan"] = gan_loss(state, setup, batch, image)
    if setup.mask is not None and (config.l1 or config.perceptual or setup.own_losses):
        mask = setup.mask(target)
        image, target = image * mask, target * mask
    if config.l1:
        values["l1"] = losses.l1_loss(image, target)
    if config.perceptual and setup.perceptual:
        values["perceptual"] = _perceptual_loss(setup, setup.perceptual, image, target)
    if config.relation:
        values["relation"] = losses.relation_loss(
            outputs.features, outputs.moved, outputs.target_features, outputs.target_moved, group=config.relation_group
        )
    weights = {name: getattr(config, name) for name in values}
    for own in setup.own_losses:
        values[own.label] = own(image, target, seed=config.seed, step=state.step)
        weights[own.label] = own.weight
    values["total"] = torch.stack([weights[name] * value for name, value in values.items()]).sum()
    return values


def _perceptual_loss(
    setup: TrainingSetup, perceptual: losses.FeatureMaps | Lpips, image: Tensor, target: Tensor
) -> Tensor:
    with setup.autocast():
        if isinstance(perceptual, Lpips):
            return perceptual(image, target).float().mean()
        with torch.no_grad():
            target_maps = perceptual(target)
        maps = perceptual(image)
    return losses.perceptual_loss(maps, target_maps)


# ---- path length ----


def regularise_path(state: TrainingState, setup: TrainingSetup) -> Tensor:
    """Apply the path length penalty ``mean (length - running mean)^2`` on half a batch, in an update of its own.

    Karras et al. 2020 (StyleGAN2, section 3.2). It takes second derivatives through the whole student, in float32. The
    running mean follows the whole half batch, so lengths of several parts are measured before any is penalised.
    """
    config = setup.config
    half = config.batch // 2  # at least one place for every part, as check_split demands
    places = range(half)[setup.team.rank :: setup.team.size]
    parts = [tuple(places[index :: config.accumulate]) for index in range(config.accumulate)]
    lengths = [_path_lengths(state, setup, part, graph=len(parts) == 1) for part in parts]
    total = torch.stack([part.detach().sum() for part in lengths]).sum()
    mean = state.path_mean.lerp(setup.team.add(total) / half, PATH_MEAN_RATE)
    penalty = torch.zeros_like(mean)
    for part in parts:
        length = lengths[0] if len(parts) == 1 else _path_lengths(state, setup, part, graph=True)
        share = (length - mean).square().sum() / half
        with setup.team.summing(state.student, last=part is parts[-1]):
            backward(config.path_length * PATH_INTERVAL * share, state.student_scaler)
        penalty += share.detach()
    apply_gradients(state.student_optimizers(), state.student_scaler)
    state.path_mean.copy_(mean)
    return penalty


def _path_lengths(state: TrainingState, setup: TrainingSetup, places: tuple[int, ...], *, graph: bool) -> Tensor:
    """Return one length for each of these places of the half batch."""
    config, step = setup.config, state.step
    z, c = draw_latents(setup.teacher.config, config.batch // 2, stream(config.seed, "path length", step), setup.device)
    chosen = list(places)
    ws = state.student.mapping(z[chosen], None if c is None else c[chosen])
    source = sample_streams(setup, places, "noise", "path length", step)
    images = state.student.synthesis(ws, noise=config.noise, generator=source)
    streams = (stream(config.seed, "path length", step, place) for place in places)
    noise = torch.stack([torch.randn(images.shape[1:], generator=each) for each in streams]).to(setup.device)
    return losses.path_lengths(images, ws, noise, graph=graph)
