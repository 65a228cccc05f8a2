"""Train the pruned student to draw what the teacher draws: StyleKD's recipe, resumable to the last bit.

One step: the teacher draws a batch and the same latents moved by an offset; the student draws both too. The student's
loss compares images (L1, perceptual), relations between images (features of both batches) and, through a full-size
discriminator trained along, the student's images with real ones. The result is the student's moving average.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..datasets.images import ImageSet
from ..errors import DcpDeployError, UsageError
from ..generators import Discriminator, DiscriminatorConfig, Generator
from . import losses
from .randomness import draw_latents, stream
from .real_images import ImageSequence, ImageSource, check_labels, real_batch
from .recipe import DistillConfig
from .training_state import TrainingState, load_state, run_key, save_state

R1_INTERVAL = 16
PATH_INTERVAL = 4
PATH_MEAN_RATE = 0.01
PROBE_LATENTS = 32
W_AVG_LATENTS = 10_000

Progress = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True)
class DistillResult:
    """The distilled generator (the moving average), its history, and where the run started.

    Each history entry has "step", "l1_to_teacher" (of the average, over 32 fixed latents) and, but for the first, each
    loss's mean since the entry before. ``resumed_at`` is 0 unless a checkpoint was continued.
    """

    generator: Generator
    history: list[dict[str, float]]
    resumed_at: int


@dataclass(frozen=True)
class _Run:
    """What stays fixed during a run."""

    config: DistillConfig
    teacher: Generator
    perceptual: losses.FeatureMaps | None
    data: ImageSource | None
    directions: Tensor  # [n, w_dim]
    probe: tuple[Tensor, Tensor | None, Tensor]  # latents, classes, the teacher's images of them
    device: torch.device


@dataclass(frozen=True)
class _Batch:
    """Latents of one step: two codes per sample, mixed from slot ``crossover`` on, and the offset to move them by."""

    z: Tensor
    z_mixed: Tensor
    c: Tensor | None
    crossover: int
    offset: Tensor  # [B, 1, w_dim]

    def ws(self, generator: Generator) -> Tensor:
        """The batch's codes [B, num_ws, w_dim] by this generator's mapping network."""
        ws: Tensor = generator.mapping(self.z, self.c)
        if self.crossover == ws.shape[1]:
            return ws
        return torch.cat([ws[:, : self.crossover], generator.mapping(self.z_mixed, self.c)[:, self.crossover :]], dim=1)


def distill(
    student: Generator,
    teacher: Generator,
    *,
    config: DistillConfig,
    data: ImageSource | None = None,
    perceptual: losses.FeatureMaps | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    device: torch.device | str | None = None,
) -> DistillResult:
    """Train a copy of ``student`` after ``teacher``; neither argument is changed.

    ``data`` are real images for the discriminator: an ``ImageSet`` (for a conditional teacher one with labels), a
    sequence of uint8 [R, R, 3] or a function from indices [N] to uint8 [N, R, R, 3]; without it the teacher's own
    samples are the real images. ``perceptual`` gives the feature maps that the perceptual loss compares (for the demo
    ``load_avatar_reader().pyramid``) and must be there when that loss has a weight. ``progress`` is
    called after each step with (steps done, steps in all, losses).

    With ``checkpoint_dir`` the whole state is written there every ``config.checkpoint_every`` steps, under a name made
    of everything that decides the result. A run killed at any moment and started again with the same arguments ends
    with the same student, bit for bit, on a CPU with the same number of threads and version of torch (sums are taken
    in another order by another number). Other settings do not touch that file, they start a file of their own.

    Raises UsageError when student, teacher and settings do not fit together, CorruptFileError for a damaged
    checkpoint, and DcpDeployError (exit code 1) when the training diverges to NaN or infinity.
    """
    device = torch.device(device) if device is not None else next(teacher.parameters()).device
    _check_networks(student, teacher, config, perceptual)
    if data is not None and config.gan:
        check_labels(data, teacher.config.c_dim)
    run = _fixed_parts(teacher, config, data, perceptual, device)
    state = _initial_state(student, run)
    checkpoint = None
    if checkpoint_dir is not None:
        key = run_key(_identity(run), {"student": student, "teacher": teacher, **_perceptual_network(perceptual)})
        checkpoint = Path(checkpoint_dir) / f"distill-{key[:12]}.safetensors"
        for remnant in checkpoint.parent.glob(f".{checkpoint.name}.*.tmp"):  # of a run killed while writing
            remnant.unlink()
        if checkpoint.exists():
            load_state(state, checkpoint, key)
    resumed_at = state.step
    if not state.step:
        state.history.append({"step": 0, "l1_to_teacher": _probe_distance(state.ema, run)})

    while state.step < config.steps:
        values = _train_step(state, run)
        _check_finite(values, state, checkpoint)
        _record(state, run, values)
        if checkpoint and (state.step % config.checkpoint_every == 0 or state.step == config.steps):
            if not state.is_finite():
                raise _diverged("a weight", state.step, checkpoint)
            save_state(state, checkpoint, key)
        if progress:
            progress(state.step, config.steps, values)
    return DistillResult(_finished(state.ema, config), state.history, resumed_at)


# ---- one step ----


def _train_step(state: TrainingState, run: _Run) -> dict[str, float]:
    """Update discriminator, student and average once; returns the step's losses by name."""
    config, step = run.config, state.step
    batch = _draw_batch(run, step)
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
    _update(state.student_optimizer, total, config.learning_rate(step) * _lazy_share(config.path_length, PATH_INTERVAL))
    if config.path_length and step % PATH_INTERVAL == 0:
        values["path_length"] = _regularise_path(state, run, step)
    state.update_ema(config.ema_decay)
    state.step += 1
    return {name: value.item() for name, value in {**values, "total": total}.items()}


def _draw_batch(run: _Run, step: int) -> _Batch:
    config, generator_config = run.config, run.teacher.config
    source = stream(config.seed, "latents", step)
    z, c = draw_latents(generator_config, config.batch, source)
    z_mixed = torch.randn(z.shape, generator=source)
    mix = float(torch.rand([], generator=source)) < config.mixing
    # With the crossover at the last slot nothing is mixed.
    slot = int(torch.randint(1, generator_config.num_ws, [], generator=source))
    offset = losses.draw_offsets(run.directions, config.batch, source)[:, None]
    crossover = slot if mix else generator_config.num_ws
    c = None if c is None else c.to(run.device)
    return _Batch(z.to(run.device), z_mixed.to(run.device), c, crossover, offset.to(run.device))


def _draw(
    generator: Generator, batch: _Batch, run: _Run, name: str, step: int
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
    state: TrainingState, run: _Run, real_and_c: tuple[Tensor, Tensor | None], drawn_and_c: tuple[Tensor, Tensor | None]
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
    rate = config.learning_rate(state.step) * _lazy_share(config.r1, R1_INTERVAL)
    _update(state.discriminator_optimizer, loss, rate)
    return {name: value.detach() for name, value in values.items()}


def _regularise_path(state: TrainingState, run: _Run, step: int) -> Tensor:
    """Half a batch through the path length penalty ``mean (length - running mean)^2``, in an update of its own.

    Karras et al. 2020 (StyleGAN2, section 3.2). It derives a derivative through the whole student.
    """
    config = run.config
    source = stream(config.seed, "path length", step)
    z, c = draw_latents(run.teacher.config, max(config.batch // 2, 1), source)
    ws = state.student.mapping(z.to(run.device), None if c is None else c.to(run.device))
    images = state.student.synthesis(ws, noise=config.noise, generator=source)
    noise = torch.randn(images.shape, generator=source).to(run.device)
    lengths = losses.path_lengths(images, ws, noise)
    mean = state.path_mean.lerp(lengths.detach().mean(), PATH_MEAN_RATE)
    penalty = (lengths - mean).square().mean()
    loss = config.path_length * PATH_INTERVAL * penalty
    _update(state.student_optimizer, loss, config.learning_rate(step) * _lazy_share(config.path_length, PATH_INTERVAL))
    state.path_mean.copy_(mean)
    return penalty.detach()


def _update(optimizer: torch.optim.Adam, loss: Tensor, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _real_images(run: _Run, data: ImageSource, step: int) -> tuple[Tensor, Tensor | None]:
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


# ---- before and after ----


def _check_networks(
    student: Generator, teacher: Generator, config: DistillConfig, perceptual: losses.FeatureMaps | None
) -> None:
    if replace(student.config, widths=teacher.widths) != teacher.config:
        raise UsageError(
            f"student and teacher differ in more than their widths: {student.config} and {teacher.config}",
            "distil a student that was pruned from this teacher",
        )
    if config.perceptual and perceptual is None:
        raise UsageError(
            f"the perceptual loss has weight {config.perceptual:g} but no network to compare features with",
            "pass perceptual=load_avatar_reader().pyramid (the demo's images), or set its weight to 0",
        )


def _fixed_parts(
    teacher: Generator,
    config: DistillConfig,
    data: ImageSource | None,
    perceptual: losses.FeatureMaps | None,
    device: torch.device,
) -> _Run:
    teacher = copy.deepcopy(teacher).to(device).eval().requires_grad_(False)
    z, c = draw_latents(teacher.config, PROBE_LATENTS, stream(config.seed, "probe"))
    z, c = z.to(device), None if c is None else c.to(device)
    with torch.no_grad():
        images = teacher(z, c)
    return _Run(config, teacher, perceptual, data, losses.offset_directions(teacher), (z, c, images), device)


def _initial_state(student: Generator, run: _Run) -> TrainingState:
    config = run.config
    student = copy.deepcopy(student).to(run.device).train().requires_grad_(True)
    ema = copy.deepcopy(student).eval().requires_grad_(False)
    discriminator = _new_discriminator(run)
    return TrainingState(
        student=student,
        ema=ema,
        discriminator=discriminator,
        student_optimizer=_adam(student, _lazy_share(config.path_length, PATH_INTERVAL)),
        discriminator_optimizer=_adam(discriminator, _lazy_share(config.r1, R1_INTERVAL)),
        path_mean=torch.zeros([], device=run.device),
    )


def _new_discriminator(run: _Run) -> Discriminator:
    """A fresh discriminator that mirrors the teacher, its weights drawn from the seed alone."""
    config = DiscriminatorConfig.mirror(run.teacher.config)
    widths = tuple(max(1, round(width * run.config.discriminator_width)) for width in config.widths)
    config = replace(config, widths=widths)
    with torch.random.fork_rng(devices=[]):  # the caller's random state stays as it is
        torch.manual_seed(stream(run.config.seed, "discriminator").initial_seed() % 2**63)
        return Discriminator(config).to(run.device)


def _lazy_share(weight: float, interval: int) -> float:
    """Share of plain updates when every ``interval``-th step adds one for a regulariser (if it has a weight).

    Learning rate and Adam's memory shrink by it (Karras et al. 2020, StyleGAN2, appendix B).
    """
    return interval / (interval + 1) if weight else 1.0


def _adam(network: nn.Module, share: float) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), betas=(0.0, 0.99**share))


@torch.no_grad()
def _finished(ema: Generator, config: DistillConfig) -> Generator:
    """The result: truncation pulls towards ``w_avg``, so after the mapping network trained it is measured again."""
    z, c = draw_latents(ema.config, W_AVG_LATENTS, stream(config.seed, "w_avg"))
    device = ema.mapping.w_avg.device
    w = ema.mapping.w(z.to(device), None if c is None else c.to(device))
    ema.mapping.w_avg.copy_(w.mean(dim=0))
    return ema.requires_grad_(True)


# ---- records and checks ----


def _record(state: TrainingState, run: _Run, values: dict[str, float]) -> None:
    """Add the step to the running sums; every ``log_every`` steps and at the end turn them into a history entry."""
    for name, value in values.items():
        entry = state.sums.setdefault(name, [0.0, 0])
        entry[0] += value
        entry[1] += 1
    if state.step % run.config.log_every == 0 or state.step == run.config.steps:
        means = {name: total / count for name, (total, count) in state.sums.items()}
        state.history.append({"step": state.step, "l1_to_teacher": _probe_distance(state.ema, run), **means})
        state.sums = {}


@torch.no_grad()
def _probe_distance(generator: Generator, run: _Run) -> float:
    z, c, images = run.probe
    return losses.l1_loss(generator(z, c), images).item()


def _check_finite(values: dict[str, float], state: TrainingState, checkpoint: Path | None) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise _diverged(f"the {name} loss", state.step, checkpoint)


def _diverged(what: str, step: int, checkpoint: Path | None) -> DcpDeployError:
    kept = f"the last good checkpoint is {checkpoint}" if checkpoint and checkpoint.exists() else "no checkpoint yet"
    return DcpDeployError(f"{what} became NaN or infinite at step {step}; {kept}", "lower the learning rate")


def _identity(run: _Run) -> dict[str, Any]:
    """All settings that decide the result, for the checkpoint's key; how often it is saved does not."""
    settings = {name: value for name, value in asdict(run.config).items() if name != "checkpoint_every"}
    data: Any = "teacher samples"
    if isinstance(run.data, ImageSet):
        data = run.data.identity
    elif run.data is not None:
        data = getattr(run.data, "__qualname__", type(run.data).__qualname__)
        data += f"[{len(run.data)}]" if isinstance(run.data, ImageSequence) else ""
    return {"config": settings, "data": data, "torch": torch.__version__, "device": run.device.type}


def _perceptual_network(perceptual: losses.FeatureMaps | None) -> dict[str, nn.Module]:
    """The network behind a bound method such as ``reader.pyramid``: its weights are part of the run's identity."""
    owner = getattr(perceptual, "__self__", perceptual)
    return {"perceptual": owner} if isinstance(owner, nn.Module) else {}
