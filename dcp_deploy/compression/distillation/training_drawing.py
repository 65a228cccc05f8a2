"""The images of one step: what teacher and student draw of its latents, and the real ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...generators import Generator
from . import losses
from .batch import Batch, sample_streams
from .real_images import real_batch
from .state import TrainingState
from .training_run import Run


@dataclass(frozen=True)
class Drawn:
    """What the teacher and the student draw of the same latents: images, and features without and with offset."""

    image: Tensor
    features: dict[str, Tensor]
    moved: dict[str, Tensor]
    target: Tensor
    target_features: dict[str, Tensor]
    target_moved: dict[str, Tensor]


def draw_both(state: TrainingState, run: Run, batch: Batch) -> Drawn:
    with torch.no_grad():
        of_teacher = _draw(run.teacher, batch, run, "teacher", state.step)
    return Drawn(*_draw(state.student, batch, run, "student", state.step), *of_teacher)


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


@torch.no_grad()
def draw_image(generator: Generator, batch: Batch, run: Run, name: str, step: int) -> Tensor:
    """The images that :func:`_draw` gives, without features."""
    image: Tensor = generator.synthesis.features(batch.ws(generator), **_how(run, batch, name, step))[0]
    return image


def _how(run: Run, batch: Batch, name: str, step: int) -> dict[str, Any]:
    """What the teacher or the student draws this batch with."""
    noise = sample_streams(run, batch.places, "noise", name, step)
    return {"noise": run.config.noise, "generator": noise, "dtype": run.config.dtype}


def real_images(state: TrainingState, run: Run) -> tuple[Tensor, Tensor | None]:
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
