"""One step of distillation: its losses, and the updates of discriminator, student and average.

A batch may be taken in parts, one after the other (``accumulate``) and over several processes. Every loss is a mean
over samples or over groups of samples, so the parts' gradients, weighted by their share, add up to the whole batch's.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from ..generators import Generator
from ..metrics.published import Lpips
from . import losses
from .randomness import draw_latents, stream
from .real_images import real_batch
from .recipe import DistillConfig
from .training_batch import Batch, draw_batch, sample_streams
from .training_run import Run
from .training_state import TrainingState

R1_INTERVAL = 16
PATH_INTERVAL = 4
PATH_MEAN_RATE = 0.01


class Terms(NamedTuple):
    """Which of the terms that are not in every step a step has."""

    gan: bool
    r1: bool
    path_length: bool


def terms_at(config: DistillConfig, step: int) -> Terms:
    """Of step ``step``: the discriminator comes in late, the two penalties now and then."""
    gan = config.gan > 0 and step >= config.first_gan_step
    r1 = gan and config.r1 > 0 and step % R1_INTERVAL == 0
    return Terms(gan, r1, config.path_length > 0 and step % PATH_INTERVAL == 0)


def train_step(state: TrainingState, run: Run) -> dict[str, float]:
    """Update discriminator, student and average once; returns the step's losses by name."""
    batch = draw_batch(run, state.step).to(run.device)
    set_rates(state, run)
    values = update_all(state, run, batch)
    if terms_at(run.config, state.step).path_length:
        values["path_length"] = _regularise_path(state, run)
    state.update_ema(run.config.ema_decay)
    state.step += 1
    return as_numbers(values, run)


def as_numbers(values: dict[str, Tensor], run: Run) -> dict[str, float]:
    """Of the whole batch, all in one copy: on a GPU each one waits for all that is still to be computed."""
    return dict(zip(values, run.team.add(torch.stack(list(values.values()))).tolist(), strict=True))


# ---- optimisers ----


def set_rates(state: TrainingState, run: Run) -> None:
    """The step's learning rates; in place where they are tensors, as a captured graph reads them."""
    config = run.config
    rate = config.learning_rate(state.step)
    for optimizer, weight, interval in (
        (state.student_optimizer, config.path_length, PATH_INTERVAL),
        (state.discriminator_optimizer, config.r1, R1_INTERVAL),
    ):
        for group in optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate * lazy_share(weight, interval))
            else:
                group["lr"] = rate * lazy_share(weight, interval)


def lazy_share(weight: float, interval: int) -> float:
    """Share of plain updates when every ``interval``-th step adds one for a regulariser (if it has a weight).

    Learning rate and Adam's memory shrink by it (Karras et al. 2020, StyleGAN2, appendix B).
    """
    return interval / (interval + 1) if weight else 1.0


def adam(network: nn.Module, share: float) -> torch.optim.Adam:
    """Adam with the recipe's moments, its memory shortened to ``share``. On a GPU in a form that a graph can hold."""
    parameters, betas = list(network.parameters()), (0.0, 0.99**share)
    if not parameters[0].is_cuda:
        return torch.optim.Adam(parameters, betas=betas)
    rate = torch.zeros([], device=parameters[0].device)
    return torch.optim.Adam(parameters, lr=rate, betas=betas, fused=True, capturable=True)


def _step(run: Run, network: nn.Module, optimizer: torch.optim.Adam, scaler: GradScaler) -> None:
    """Update ``network`` by the gradients that all parts and processes have added up, and drop them.

    fp16's gradients are scaled to stay in its range; where one left it all the same, the update is skipped and the
    scale halved. fp32 and bf16, which has fp32's range, need none of that: their scaler does nothing.
    """
    run.team.sum_gradients(network.parameters())
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)


def _backward(loss: Tensor, scaler: GradScaler) -> None:
    scaler.scale(loss).backward()  # type: ignore[no-untyped-call]


class _Sums(dict[str, Tensor]):
    """Losses by name, added up over parts by their share."""

    def add(self, values: dict[str, Tensor], share: float) -> None:
        for name, value in values.items():
            self[name] = self.get(name, 0.0) + value.detach() * share


# ---- the updates ----


@dataclass(frozen=True)
class _Drawn:
    """What the teacher and the student draw of the same latents: images, and features without and with offset."""

    image: Tensor
    features: dict[str, Tensor]
    moved: dict[str, Tensor]
    target: Tensor
    target_features: dict[str, Tensor]
    target_moved: dict[str, Tensor]


def update_all(state: TrainingState, run: Run, batch: Batch) -> dict[str, Tensor]:
    """Update the discriminator if there is one, then the student; returns the losses of this process's batch, scalars.

    ``batch`` is drawn once where it fits into one part. Else each part is drawn for either update, the same both times.
    """
    parts = batch.parts(run.config.accumulate)
    drawn = _draw_both(state, run, batch) if len(parts) == 1 else None
    values = _Sums()
    gan = terms_at(run.config, state.step).gan
    if gan:
        values |= _update_discriminator(state, run, parts, drawn)
    for part in parts:
        share = len(part.z) / run.config.batch
        terms = _student_losses(state, run, part, drawn or _draw_both(state, run, part), gan=gan)
        _backward(terms["total"] * share, state.student_scaler)
        values.add(terms, share)
    _step(run, state.student, state.student_optimizer, state.student_scaler)
    return values


def _student_losses(state: TrainingState, run: Run, batch: Batch, drawn: _Drawn, *, gan: bool) -> dict[str, Tensor]:
    """Every loss of the student, and their weighted sum as "total"."""
    config, values = run.config, {}
    image, target = drawn.image, drawn.target
    if gan:
        state.discriminator.requires_grad_(False)
        values["gan"] = losses.generator_gan_loss(state.discriminator(image, batch.c, dtype=config.dtype))
        state.discriminator.requires_grad_(True)
    if run.mask is not None and (config.l1 or config.perceptual):
        shown = run.mask(target)
        image, target = image * shown, target * shown
    if config.l1:
        values["l1"] = losses.l1_loss(image, target)
    if config.perceptual and run.perceptual:
        values["perceptual"] = _perceptual_loss(run, image, target)
    if config.relation:
        values["relation"] = losses.relation_loss(
            drawn.features, drawn.moved, drawn.target_features, drawn.target_moved, group=config.relation_group
        )
    values["total"] = torch.stack([getattr(config, name) * value for name, value in values.items()]).sum()
    return values


def _perceptual_loss(run: Run, image: Tensor, target: Tensor) -> Tensor:
    """In the run's precision as far as autocast finds that safe: the network is not ours."""
    perceptual, low = run.perceptual, run.config.precision != "fp32"
    assert perceptual is not None
    with torch.autocast(run.device.type, dtype=run.config.dtype) if low else nullcontext():
        if isinstance(perceptual, Lpips):
            return perceptual(image, target).float().mean()
        with torch.no_grad():
            target_maps = perceptual(target)
        maps = perceptual(image)
    return losses.perceptual_loss(maps, target_maps)


def _draw_both(state: TrainingState, run: Run, batch: Batch) -> _Drawn:
    with torch.no_grad():
        of_teacher = _draw(run.teacher, batch, run, "teacher", state.step)
    return _Drawn(*_draw(state.student, batch, run, "student", state.step), *of_teacher)


def _draw(
    generator: Generator, batch: Batch, run: Run, name: str, step: int
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Images of the batch, and the features of the mimic layers: of the batch, and of the batch moved by its offset.

    No loss looks at the moved images themselves, so those stop after the last mimic layer.
    """
    config = run.config
    ws, how = batch.ws(generator), _how(run, batch, name, step)
    image, features = generator.synthesis.features(ws, **how)
    if not config.relation:
        return image, {}, {}
    names = losses.mimic_layers(generator.config)
    moved = generator.synthesis.features_until(ws + batch.offset, names[-1], **how)
    return image, {name: features[name] for name in names}, {name: moved[name] for name in names}


def _update_discriminator(state: TrainingState, run: Run, parts: list[Batch], drawn: _Drawn | None) -> _Sums:
    """One update on real and drawn images; every 16th step with the R1 penalty, weighted to make up for the rest."""
    reals = None if run.data is None else _real_images(state, run)
    values = _Sums()
    for index, part in enumerate(parts):
        share = len(part.z) / run.config.batch
        image = drawn.image.detach() if drawn else _image(state.student, part, run, "student", state.step)
        if reals is not None:
            real, real_c = reals[0][index :: len(parts)], None if reals[1] is None else reals[1][index :: len(parts)]
        else:
            real = drawn.target if drawn else _image(run.teacher, part, run, "teacher", state.step)
            real_c = part.c
        terms = _discriminator_losses(state, run, (real, real_c), (image, part.c))
        total = terms["discriminator"]
        if "r1" in terms:
            total = total + 0.5 * run.config.r1 * R1_INTERVAL * terms["r1"]
        _backward(total * share, state.discriminator_scaler)
        values.add(terms, share)
    _step(run, state.discriminator, state.discriminator_optimizer, state.discriminator_scaler)
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


@torch.no_grad()
def _image(generator: Generator, batch: Batch, run: Run, name: str, step: int) -> Tensor:
    """The images that :func:`_draw` gives, without features."""
    image: Tensor = generator.synthesis.features(batch.ws(generator), **_how(run, batch, name, step))[0]
    return image


def _how(run: Run, batch: Batch, name: str, step: int) -> dict[str, Any]:
    """What the teacher or the student draws this batch with."""
    noise = sample_streams(run, batch.places, "noise", name, step)
    return {"noise": run.config.noise, "generator": noise, "dtype": run.config.dtype}


def _real_images(state: TrainingState, run: Run) -> tuple[Tensor, Tensor | None]:
    """This process's real images of the step and their labels; an unconditional discriminator gets none."""
    config = run.config
    assert run.data is not None
    images, c = real_batch(
        run.data,
        (state.step - config.first_gan_step) * config.batch,
        config.batch,
        seed=config.seed,
        resolution=run.teacher.config.resolution,
        mirror=config.mirror,
        part=slice(run.team.rank, None, run.team.size),
    )
    return images.to(run.device), None if c is None or not run.teacher.config.c_dim else c.to(run.device)


# ---- path length ----


def _regularise_path(state: TrainingState, run: Run) -> Tensor:
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
        _backward(config.path_length * PATH_INTERVAL * share, state.student_scaler)
        penalty += share.detach()
    _step(run, state.student, state.student_optimizer, state.student_scaler)
    state.path_mean.copy_(mean)
    return penalty


def _path_lengths(state: TrainingState, run: Run, places: tuple[int, ...], *, graph: bool) -> Tensor:
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
