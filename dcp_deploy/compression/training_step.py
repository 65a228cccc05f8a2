"""One step of distillation: what is drawn for it, its losses, and the updates of discriminator, student and average."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..generators import Generator
from . import losses
from .randomness import draw_latents, stream
from .real_images import ImageSource, real_batch
from .recipe import DistillConfig
from .training_state import TrainingState

R1_INTERVAL = 16
PATH_INTERVAL = 4
PATH_MEAN_RATE = 0.01


@dataclass(frozen=True)
class Run:
    """What stays fixed during a run."""

    config: DistillConfig
    teacher: Generator
    perceptual: losses.FeatureMaps | None
    data: ImageSource | None
    directions: Tensor  # [n, w_dim]
    probe: tuple[Tensor, Tensor | None, Tensor]  # latents, classes, the teacher's images of them
    device: torch.device


@dataclass(frozen=True)
class Batch:
    """Latents of one step: two codes per sample, mixed from slot ``crossover`` on, and the offset to move them by."""

    z: Tensor
    z_mixed: Tensor
    c: Tensor | None
    crossover: Tensor  # [], int64
    offset: Tensor  # [B, 1, w_dim]

    def ws(self, generator: Generator) -> Tensor:
        """The batch's codes [B, num_ws, w_dim] by this generator's mapping network."""
        ws: Tensor = generator.mapping(self.z, self.c)
        slots = torch.arange(ws.shape[1], device=ws.device)
        return torch.where((slots < self.crossover)[:, None], ws, generator.mapping(self.z_mixed, self.c))

    def to(self, device: torch.device) -> Batch:
        """A copy there."""
        z, mixed, crossover, offset = (x.to(device) for x in (self.z, self.z_mixed, self.crossover, self.offset))
        return Batch(z, mixed, None if self.c is None else self.c.to(device), crossover, offset)

    def copy_(self, other: Batch) -> None:
        """Take over the values of a batch of the same shape."""
        for name in ("z", "z_mixed", "c", "crossover", "offset"):
            if getattr(self, name) is not None:
                getattr(self, name).copy_(getattr(other, name))


def draw_batch(run: Run, step: int) -> Batch:
    """The latents of a step, on the CPU."""
    config, generator_config = run.config, run.teacher.config
    source = stream(config.seed, "latents", step)
    z, c = draw_latents(generator_config, config.batch, source)
    z_mixed = torch.randn(z.shape, generator=source)
    mix = float(torch.rand([], generator=source)) < config.mixing
    slot = torch.randint(1, generator_config.num_ws, [], generator=source)
    offset = losses.draw_offsets(run.directions, config.batch, source)[:, None]
    # With the crossover at the last slot nothing is mixed.
    return Batch(z, z_mixed, c, slot if mix else torch.tensor(generator_config.num_ws), offset)


def train_step(state: TrainingState, run: Run) -> dict[str, float]:
    """Update discriminator, student and average once; returns the step's losses by name."""
    batch = draw_batch(run, state.step).to(run.device)
    set_rates(state, run)
    values = update_all(state, run, batch)
    if run.config.path_length and state.step % PATH_INTERVAL == 0:
        values["path_length"] = _regularise_path(state, run)
    state.update_ema(run.config.ema_decay)
    state.step += 1
    return as_numbers(values)


def as_numbers(values: dict[str, Tensor]) -> dict[str, float]:
    """All in one copy: on a GPU each one waits for all that is still to be computed."""
    return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))


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


def update_all(state: TrainingState, run: Run, batch: Batch) -> dict[str, Tensor]:
    """Draw the batch, update the discriminator if there is one, then the student; returns the losses, scalars."""
    config, step = run.config, state.step
    gan = config.gan > 0 and step >= config.first_gan_step
    with torch.no_grad():
        target, target_features, target_moved = _draw(run.teacher, batch, run, "teacher", step)
    image, features, moved = _draw(state.student, batch, run, "student", step)

    values: dict[str, Tensor] = {}
    if gan:
        real, real_c = (target, batch.c) if run.data is None else _real_images(run, run.data, step)
        values |= _train_discriminator(state, run, (real, real_c), (image.detach(), batch.c))
        state.discriminator.requires_grad_(False)
        values["gan"] = losses.generator_gan_loss(state.discriminator(image, batch.c))
        state.discriminator.requires_grad_(True)
    if config.l1:
        values["l1"] = losses.l1_loss(image, target)
    if config.perceptual and run.perceptual:
        with torch.no_grad():
            target_maps = run.perceptual(target)
        values["perceptual"] = losses.perceptual_loss(run.perceptual(image), target_maps)
    if config.relation:
        values["relation"] = losses.relation_loss(features, moved, target_features, target_moved)

    terms = [name for name in ("gan", "l1", "perceptual", "relation") if name in values]
    total = torch.stack([getattr(config, name) * values[name] for name in terms]).sum()
    _update(state.student_optimizer, total)
    return {name: value.detach() for name, value in {**values, "total": total}.items()}


def _draw(
    generator: Generator, batch: Batch, run: Run, name: str, step: int
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Images of the batch, and the features of the mimic layers: of the batch, and of the batch moved by its offset.

    No loss looks at the moved images themselves, so those stop after the last mimic layer.
    """
    config = run.config
    source = stream(config.seed, "noise", name, step)
    ws = batch.ws(generator)
    image, features = generator.synthesis.features(ws, noise=config.noise, generator=source)
    if not config.relation:
        return image, {}, {}
    names = losses.mimic_layers(generator.config)
    moved = generator.synthesis.features_until(ws + batch.offset, names[-1], noise=config.noise, generator=source)
    return image, {name: features[name] for name in names}, {name: moved[name] for name in names}


def _train_discriminator(
    state: TrainingState, run: Run, real_and_c: tuple[Tensor, Tensor | None], drawn_and_c: tuple[Tensor, Tensor | None]
) -> dict[str, Tensor]:
    """One update on real and drawn images; every 16th step with the R1 penalty, weighted to make up for the rest."""
    config = run.config
    penalise = config.r1 > 0 and state.step % R1_INTERVAL == 0
    real, real_c = real_and_c
    real = real.detach().requires_grad_(penalise)
    real_logits = state.discriminator(real, real_c)
    loss = losses.discriminator_gan_loss(real_logits, state.discriminator(*drawn_and_c))
    values = {"discriminator": loss}
    if penalise:
        values["r1"] = losses.r1_penalty(real, real_logits)
        loss = loss + 0.5 * config.r1 * R1_INTERVAL * values["r1"]
    _update(state.discriminator_optimizer, loss)
    return {name: value.detach() for name, value in values.items()}


def _regularise_path(state: TrainingState, run: Run) -> Tensor:
    """Half a batch through the path length penalty ``mean (length - running mean)^2``, in an update of its own.

    Karras et al. 2020 (StyleGAN2, section 3.2). It derives a derivative through the whole student.
    """
    config = run.config
    source = stream(config.seed, "path length", state.step)
    z, c = draw_latents(run.teacher.config, max(config.batch // 2, 1), source)
    ws = state.student.mapping(z.to(run.device), None if c is None else c.to(run.device))
    images = state.student.synthesis(ws, noise=config.noise, generator=source)
    noise = torch.randn(images.shape, generator=source).to(run.device)
    lengths = losses.path_lengths(images, ws, noise)
    mean = state.path_mean.lerp(lengths.detach().mean(), PATH_MEAN_RATE)
    penalty = (lengths - mean).square().mean()
    _update(state.student_optimizer, config.path_length * PATH_INTERVAL * penalty)
    state.path_mean.copy_(mean)
    return penalty.detach()


def _update(optimizer: torch.optim.Adam, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _real_images(run: Run, data: ImageSource, step: int) -> tuple[Tensor, Tensor | None]:
    """The step's real images and their labels; an unconditional discriminator gets none."""
    config = run.config
    position = (step - config.first_gan_step) * config.batch
    images, c = real_batch(
        data,
        position,
        config.batch,
        seed=config.seed,
        resolution=run.teacher.config.resolution,
        mirror=config.mirror,
    )
    return images.to(run.device), None if c is None or not run.teacher.config.c_dim else c.to(run.device)
