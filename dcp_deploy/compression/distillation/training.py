"""Train the pruned student to generate what the teacher generates: StyleKD's recipe, resumable bit for bit.

In one step the teacher generates a batch, and the features of the same latents moved by an offset; the student does the
same. The student's loss compares images (L1, perceptual), relations between images (features of both batches) and, by a
full-size discriminator trained along, the student's images with real ones. The result is the student's moving average.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ...devices import Choice, check_threads, choose_threads, cpu_threads, default_threads, stated_threads
from ...distributed.joining import check_devices, helpers, join_team
from ...distributed.team import ALONE, Team
from ...efforts import EFFORT
from ...errors import DcpDeployError, UsageError
from ...extensions.loggers import TrainingLoggers
from ...files import remove_scratch
from ...generators import Discriminator, Generator
from ...generators.latents import draw_latents, stream
from ...metrics.published import Lpips
from ...progress import Progress
from ..masks import Mask
from . import losses
from .real_images import ImageSource
from .recipe import RECIPES, DistillConfig
from .records import Measure, Records
from .state import TrainingState, load_state, recorded_threads, save_state
from .step import train_step
from .step_graph import StepGraph, can_be_captured
from .stopping import TrainingInterruptedError, stop_requests
from .task import Task
from .timing import Expected, expected_time

if TYPE_CHECKING:
    from lightning_fabric.loggers.logger import Logger

W_AVG_LATENTS = 10_000
LEAST_SCALE = 2.0**-20  # fp16's loss scale is halved at each overflow; below this nothing is learnt any more

OnStep = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True)
class DistillResult:
    """The distilled generator (the moving average), its history, and the step at which the run started.

    Each history entry has "step", "l1_to_teacher" (of the average, over 32 fixed latents) and, except for the first,
    each loss's mean since the entry before. ``resumed_at`` is 0 unless a checkpoint was continued. ``best`` is the
    average at its best step, if ``keep_best`` names a figure.
    """

    generator: Generator
    history: list[dict[str, float]]
    resumed_at: int
    best: BestStudent | None = None


@dataclass(frozen=True)
class BestStudent:
    """The moving average after ``step`` steps, where the watched figure had its lowest ``value``."""

    generator: Generator
    step: int
    value: float


def distill(
    student: Generator,
    teacher: Generator,
    *,
    config: DistillConfig | None = None,
    data: ImageSource | None = None,
    perceptual: losses.FeatureMaps | Lpips | None = None,
    mask: Mask | None = None,
    discriminator: Discriminator | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    on_step: OnStep | None = None,
    expect: Callable[[Expected], None] | None = None,
    measure: Measure | None = None,
    measure_at: Collection[int] | None = None,
    keep_best: str | None = None,
    loggers: Sequence[str | Logger] | TrainingLoggers = (),
    tensorboard: str | os.PathLike[str] | None = None,
    device: torch.device | str | None = None,
    devices: int = 1,
    threads: int | None = None,
) -> DistillResult:
    """Train a copy of ``student`` to imitate ``teacher``; neither argument is changed.

    ``config`` is a recipe, by default that of ``build``: ``RECIPES["quick"]``, without its perceptual loss unless
    ``perceptual`` is given.

    ``data`` are real images for the discriminator: an ``ImageSet`` (with labels for a class-conditional teacher), a
    sequence of uint8 [H, W, 3], or a function from indices [N] to uint8 [N, H, W, 3]. Without it the teacher's own
    samples are the real images. ``perceptual`` returns the feature maps that the perceptual loss compares (for the demo
    ``load_avatar_reader().pyramid``), or is LPIPS. It is required when that loss has a weight.
    ``mask`` selects the part of the teacher's images that the L1 and perceptual losses compare. ``discriminator`` is
    the one to start from, such as the teacher's own; by default a new one.

    ``progress`` is called after each step with (steps done, steps in all), ``on_step`` also with the losses. ``expect``
    is called once before the first step with the expected time of all, from a few steps timed for it. ``measure`` is
    called with the moving average after each number of steps in ``measure_at`` (0: before the first; by default every
    ``config.measure_every`` steps and at the end), and its figures are added to the history. ``keep_best`` names a
    figure of the history, the lower the better: the average is kept where it was lowest.

    ``loggers`` record every entry of the history, the learning rate, the speed, sample images and the recipe: "csv",
    "tensorboard", "wandb", "mlflow", with "=" and a folder, project or address after it, or objects of Lightning's
    logger classes. Files lie in ``checkpoint_dir``/logs, without it in logs. A logger that fails does not end the
    training. ``tensorboard`` is a folder, and means the logger "tensorboard=FOLDER".

    With ``checkpoint_dir`` the whole state is written there every ``config.checkpoint_every`` steps, under a name that
    depends on everything that decides the result. A run killed at any moment and started again with the same arguments
    ends with the same student bit for bit, on a CPU with the same version of torch. Runs with other settings have files
    of their own. SIGTERM and SIGINT end the run after the current step with a checkpoint, as TrainingInterruptedError
    (a KeyboardInterrupt).

    ``threads`` are the CPU threads of each process. By default a checkpoint goes on with those that it began with,
    because another number sums in another order. A new run takes ``OMP_NUM_THREADS``, else all cores of a quiet
    machine, and on a loaded one those that other processes leave free.

    ``devices`` processes share every batch, the first of them this one: on that many GPUs, from ``cuda:0`` on, or on
    the CPU. Gradients are those of the whole batch, to rounding, so a run may continue with another number of
    processes. In a program that torchrun or srun started through :func:`~dcp_deploy.run_launched`, its processes on
    all machines share the batch. This one alone reads and writes the checkpoint.

    Raises UsageError when student, teacher and settings do not fit together, CorruptFileError for a damaged
    checkpoint, MissingCapabilityError for missing devices or packages, and DcpDeployError (exit code 1) when the
    training diverges to NaN or infinity.
    """
    if config is None:
        config = RECIPES[EFFORT] if perceptual is not None else replace(RECIPES[EFFORT], perceptual=0.0)
    if not isinstance(config, DistillConfig):
        raise UsageError(f"config is {config!r}, not a DistillConfig", "Give a recipe: config=RECIPES['quick'].")
    device = torch.device(device) if device is not None else next(teacher.parameters()).device
    folder = None if checkpoint_dir is None else Path(checkpoint_dir)
    scheduled = () if measure is None else config.measured_steps
    at = frozenset(scheduled if measure_at is None else measure_at)
    check_devices(devices, device)
    devices = helpers() if helpers() > 1 else devices
    task = Task(student, teacher, config, data, perceptual, mask, discriminator, folder, at, keep_best, devices)
    task.check()
    check_threads(threads)
    if not isinstance(loggers, TrainingLoggers):
        board = () if tensorboard is None else (f"tensorboard={os.fspath(tensorboard)}",)
        loggers = TrainingLoggers([*loggers, *board], (folder or Path()) / "logs")
    key = task.key(device)
    if folder is not None and loggers.record is None:
        loggers.record = _checkpoint_file(folder, key).with_suffix(".loggers.json")
    records = Records(task, measure, loggers)
    choice = _choose_threads(task, key, device) if threads is None else Choice(threads)
    with cpu_threads(choice.threads), records:
        if devices == 1:
            return _train(task, key, device, ALONE, choice, records, progress, on_step, expect)
        with join_team(devices, device, partial(_train_along, task.on(torch.device("cpu")), key, choice)) as joined:
            team, own_device = joined
            return _train(task, key, own_device, team, choice, records, progress, on_step, expect)


def _choose_threads(task: Task, key: str, device: torch.device) -> Choice:
    """Return the threads of the run's checkpoint, else as many as the processes of the run find free."""
    file = None if task.checkpoint_dir is None else _checkpoint_file(task.checkpoint_dir, key)
    if device.type != "cpu":
        return Choice(torch.get_num_threads())
    if file is not None and file.exists():
        recorded = recorded_threads(file)
        return Choice(torch.get_num_threads()) if recorded is None else Choice(recorded, "as the run began")
    if stated_threads() is not None:
        return Choice(torch.get_num_threads())
    return choose_threads(default_threads())


def _train_along(task: Task, key: str, choice: Choice, device: torch.device, team: Team) -> None:
    """Take the same steps in another process of the team, without records."""
    _train(task.on(device), key, device, team, choice)


def _train(
    task: Task,
    key: str,
    device: torch.device,
    team: Team,
    choice: Choice,
    records: Records | None = None,
    progress: Progress | None = None,
    on_step: OnStep | None = None,
    expect: Callable[[Expected], None] | None = None,
) -> DistillResult:
    config, setup, state = task.config, task.setup(device, team), task.state(device)
    checkpoint = _checkpoint(task, key, team)
    if team.any(team.rank == 0 and checkpoint is not None and checkpoint.exists()):
        assert checkpoint is not None  # the same in every process
        load_state(state, checkpoint, key, team)
    resumed_at = state.step
    if expect and state.step < config.steps:
        expect(replace(expected_time(task, setup, state.step), threads=choice))
    if records:
        records.begin(state, setup)

    step = StepGraph() if can_be_captured(setup) else train_step
    with stop_requests() as requested:
        while state.step < config.steps:
            values = step(state, setup)
            for name, value in values.items():
                if not math.isfinite(value):
                    raise _diverged(f"the {name} loss", state.step, checkpoint)
            stop = team.any(requested() is not None)
            if records:
                records.add(state, setup, values)
                due = state.step % config.checkpoint_every == 0 or state.step == config.steps
                if checkpoint and (due or stop):
                    _save(state, checkpoint, key)
                if progress:
                    progress(state.step, config.steps)
                if on_step:
                    on_step(state.step, config.steps, values)
            if stop:
                kept = f"the checkpoint is {checkpoint}" if checkpoint else "without a checkpoint_dir nothing was kept"
                by = requested() or "a signal to another process"
                raise TrainingInterruptedError(f"stopped by {by} after step {state.step} of {config.steps}; {kept}")
    return DistillResult(_finished(state.ema, config), state.history, resumed_at, _best_student(state, config))


def _checkpoint(task: Task, key: str, team: Team) -> Path | None:
    """Return the path of the run's checkpoint, after removing what a run that was killed while writing left there."""
    if task.checkpoint_dir is None:
        return None
    checkpoint = _checkpoint_file(task.checkpoint_dir, key)
    if team.rank == 0:
        remove_scratch(checkpoint.parent)
    return checkpoint


def _checkpoint_file(folder: Path, key: str) -> Path:
    return folder / f"distill-{key[:12]}.safetensors"


def _save(state: TrainingState, checkpoint: Path, key: str) -> None:
    """Save the state. Raise instead if it holds NaN or infinity, so that the last good checkpoint survives."""
    if not state.is_finite():
        raise _diverged("a weight", state.step, checkpoint)
    if min(scaler.get_scale() for scaler in state.scalers()) < LEAST_SCALE:
        raise _diverged("every gradient in fp16", state.step, checkpoint)
    save_state(state, checkpoint, key)


def _diverged(what: str, step: int, checkpoint: Path | None) -> DcpDeployError:
    kept = f"the last good checkpoint is {checkpoint}" if checkpoint and checkpoint.exists() else "no checkpoint yet"
    return DcpDeployError(f"{what} became NaN or infinite at step {step}; {kept}", "Lower the learning rate.")


def _best_student(state: TrainingState, config: DistillConfig) -> BestStudent | None:
    if state.best is None:
        return None
    average = copy.deepcopy(state.ema)
    average.load_state_dict(state.best.weights)
    return BestStudent(_finished(average, config), state.best.step, state.best.value)


@torch.no_grad()
def _finished(average: Generator, config: DistillConfig) -> Generator:
    """Return the average as the result: its ``w_avg``, the centre of truncation, is measured after the training."""
    w_avg = average.mapping.w_avg
    z, c = draw_latents(average.config, W_AVG_LATENTS, stream(config.seed, "w_avg"), w_avg.device)
    w_avg.copy_(average.mapping.w(z, c).mean(dim=0))
    return average.requires_grad_(True)
