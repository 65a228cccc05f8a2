"""Train the pruned student to draw what the teacher draws: StyleKD's recipe, resumable to the last bit.

One step: the teacher draws a batch and the same latents moved by an offset; the student draws both too. The student's
loss compares images (L1, perceptual), relations between images (features of both batches) and, through a full-size
discriminator trained along, the student's images with real ones. The result is the student's moving average.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..datasets.images import ImageSet
from ..errors import DcpDeployError, UsageError
from ..generators import Discriminator, DiscriminatorConfig, Generator
from . import losses
from .randomness import draw_latents, stream
from .real_images import ImageSequence, ImageSource, check_labels
from .recipe import DistillConfig
from .step_graph import StepGraph, can_be_captured
from .training_state import TrainingState, load_state, run_key, save_state
from .training_step import PATH_INTERVAL, R1_INTERVAL, Run, adam, lazy_share, train_step

PROBE_LATENTS = 32
W_AVG_LATENTS = 10_000

Progress = Callable[[int, int, dict[str, float]], None]
Measure = Callable[[Generator], Mapping[str, float]]
"""Figures of a student, by names that no loss has. It must leave the student, and torch's global state, as they are."""


@dataclass(frozen=True)
class DistillResult:
    """The distilled generator (the moving average), its history, and where the run started.

    Each history entry has "step", "l1_to_teacher" (of the average, over 32 fixed latents) and, but for the first, each
    loss's mean since the entry before. ``resumed_at`` is 0 unless a checkpoint was continued.
    """

    generator: Generator
    history: list[dict[str, float]]
    resumed_at: int


def distill(
    student: Generator,
    teacher: Generator,
    *,
    config: DistillConfig,
    data: ImageSource | None = None,
    perceptual: losses.FeatureMaps | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    measure: Measure | None = None,
    measure_at: Collection[int] = (),
    device: torch.device | str | None = None,
) -> DistillResult:
    """Train a copy of ``student`` after ``teacher``; neither argument is changed.

    ``data`` are real images for the discriminator: an ``ImageSet`` (for a conditional teacher one with labels), a
    sequence of uint8 [R, R, 3] or a function from indices [N] to uint8 [N, R, R, 3]; without it the teacher's own
    samples are the real images. ``perceptual`` gives the feature maps that the perceptual loss compares (for the demo
    ``load_avatar_reader().pyramid``) and must be there when that loss has a weight. ``progress`` is
    called after each step with (steps done, steps in all, losses). ``measure`` is called with the moving average after
    each number of steps in ``measure_at`` (0: before the first), and what it returns goes into the history.

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
        networks = {"student": student, "teacher": teacher, **_perceptual_network(perceptual)}
        key = run_key(_identity(run, measure_at), networks)
        checkpoint = Path(checkpoint_dir) / f"distill-{key[:12]}.safetensors"
        for remnant in checkpoint.parent.glob(f".{checkpoint.name}.*.tmp"):  # of a run killed while writing
            remnant.unlink()
        if checkpoint.exists():
            load_state(state, checkpoint, key)
    resumed_at = state.step
    measures = _Measures(measure, frozenset(measure_at))
    if not state.step:
        state.history.append({"step": 0, "l1_to_teacher": _probe_distance(state.ema, run), **measures.of(state)})

    step = StepGraph() if can_be_captured(run) else train_step
    while state.step < config.steps:
        values = step(state, run)
        _check_finite(values, state, checkpoint)
        _record(state, run, values, measures)
        if checkpoint and (state.step % config.checkpoint_every == 0 or state.step == config.steps):
            if not state.is_finite():
                raise _diverged("a weight", state.step, checkpoint)
            save_state(state, checkpoint, key)
        if progress:
            progress(state.step, config.steps, values)
    return DistillResult(_finished(state.ema, config), state.history, resumed_at)


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
) -> Run:
    teacher = copy.deepcopy(teacher).to(device).eval().requires_grad_(False)
    z, c = draw_latents(teacher.config, PROBE_LATENTS, stream(config.seed, "probe"))
    z, c = z.to(device), None if c is None else c.to(device)
    with torch.no_grad():
        images = teacher(z, c)
    return Run(config, teacher, perceptual, data, losses.offset_directions(teacher), (z, c, images), device)


def _initial_state(student: Generator, run: Run) -> TrainingState:
    config = run.config
    student = copy.deepcopy(student).to(run.device).train().requires_grad_(True)
    ema = copy.deepcopy(student).eval().requires_grad_(False)
    discriminator = _new_discriminator(run)
    return TrainingState(
        student=student,
        ema=ema,
        discriminator=discriminator,
        student_optimizer=adam(student, lazy_share(config.path_length, PATH_INTERVAL)),
        discriminator_optimizer=adam(discriminator, lazy_share(config.r1, R1_INTERVAL)),
        path_mean=torch.zeros([], device=run.device),
    )


def _new_discriminator(run: Run) -> Discriminator:
    """A fresh discriminator that mirrors the teacher, its weights drawn from the seed alone."""
    config = DiscriminatorConfig.mirror(run.teacher.config)
    widths = tuple(max(1, round(width * run.config.discriminator_width)) for width in config.widths)
    config = replace(config, widths=widths)
    with torch.random.fork_rng(devices=[]):  # the caller's random state stays as it is
        torch.manual_seed(stream(run.config.seed, "discriminator").initial_seed() % 2**63)
        return Discriminator(config).to(run.device)


@torch.no_grad()
def _finished(ema: Generator, config: DistillConfig) -> Generator:
    """The result: truncation pulls towards ``w_avg``, so after the mapping network trained it is measured again."""
    z, c = draw_latents(ema.config, W_AVG_LATENTS, stream(config.seed, "w_avg"))
    device = ema.mapping.w_avg.device
    w = ema.mapping.w(z.to(device), None if c is None else c.to(device))
    ema.mapping.w_avg.copy_(w.mean(dim=0))
    return ema.requires_grad_(True)


# ---- records and checks ----


@dataclass(frozen=True)
class _Measures:
    """What else goes into the history, and after which steps."""

    measure: Measure | None
    at: frozenset[int]

    def of(self, state: TrainingState) -> Mapping[str, float]:
        """The figures of a state; none when it is not its turn."""
        return self.measure(state.ema) if self.measure is not None and state.step in self.at else {}


def _record(state: TrainingState, run: Run, values: dict[str, float], measures: _Measures) -> None:
    """Add the step to the running sums; every ``log_every`` steps, at the end, and where there is something to measure
    turn them into a history entry."""
    for name, value in values.items():
        running = state.sums.setdefault(name, [0.0, 0])
        running[0] += value
        running[1] += 1
    if state.step % run.config.log_every == 0 or state.step == run.config.steps or state.step in measures.at:
        means = {name: total / count for name, (total, count) in state.sums.items()}
        entry = {"step": state.step, "l1_to_teacher": _probe_distance(state.ema, run), **means}
        state.history.append({**entry, **measures.of(state)})
        state.sums = {}


@torch.no_grad()
def _probe_distance(generator: Generator, run: Run) -> float:
    z, c, images = run.probe
    return losses.l1_loss(generator(z, c), images).item()


def _check_finite(values: dict[str, float], state: TrainingState, checkpoint: Path | None) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise _diverged(f"the {name} loss", state.step, checkpoint)


def _diverged(what: str, step: int, checkpoint: Path | None) -> DcpDeployError:
    kept = f"the last good checkpoint is {checkpoint}" if checkpoint and checkpoint.exists() else "no checkpoint yet"
    return DcpDeployError(f"{what} became NaN or infinite at step {step}; {kept}", "lower the learning rate")


def _identity(run: Run, measure_at: Collection[int]) -> dict[str, Any]:
    """All settings that decide the result, for the checkpoint's key; how often it is saved does not."""
    settings = {name: value for name, value in asdict(run.config).items() if name != "checkpoint_every"}
    data: Any = "teacher samples"
    if isinstance(run.data, ImageSet):
        data = run.data.identity
    elif run.data is not None:
        data = getattr(run.data, "__qualname__", type(run.data).__qualname__)
        data += f"[{len(run.data)}]" if isinstance(run.data, ImageSequence) else ""
    measured = {"measure_at": sorted(measure_at)} if measure_at else {}
    return {"config": settings, "data": data, "torch": torch.__version__, "device": run.device.type, **measured}


def _perceptual_network(perceptual: losses.FeatureMaps | None) -> dict[str, nn.Module]:
    """The network behind a bound method such as ``reader.pyramid``: its weights are part of the run's identity."""
    owner = getattr(perceptual, "__self__", perceptual)
    return {"perceptual": owner} if isinstance(owner, nn.Module) else {}
