"""Editing along directions of w, and a comparison of what an edit changes in teacher and student."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checkpoints.direction_import import ForeignDirections, placed
from ..checkpoints.directions import Direction, check_directions
from ..compression.scoring.directions import principal_components
from ..datasets.canvas import RESOLUTION
from ..datasets.factors import FACTORS, Factors
from ..errors import InputError, UsageError
from ..generators import Generator
from ..generators.latents import draw_latents, stream
from ..metrics.drawing import to_8_bit
from ..metrics.features import load_avatar_reader
from ..progress import Progress, shifted

COUNT = 10
SAMPLES = 128
STEPS = 2.0  # standard deviations in both directions: visible, and still within the data
_BATCH = 32
_STILL = 1e-5  # of the largest standard deviation; the components are rounded to float32
_SIGMA_AGREES = 0.2  # relative; 10,000 latents leave 1 % of error, but a file may be of a copy trained further

Matrix = NDArray[np.float64]
logger = logging.getLogger("dcp_deploy")


# ---- directions ----


def find_directions(generator: Generator, *, count: int = COUNT, seed: int = 0) -> dict[str, Direction]:
    """Return the first ``count`` principal components of w, "pc0", "pc1", ..., which move every slot of ws.

    This is GANSpace (Härkönen et al. 2020) for StyleGAN: PCA of 10,000 mapped latents, as in channel scoring. Raises
    UsageError for a count below 1 or above w_dim.
    """
    config = generator.config
    if not 1 <= count <= config.w_dim:
        raise UsageError(f"w has {config.w_dim} directions, not {count}", f"Choose a count of 1 to {config.w_dim}.")
    components, variances = principal_components(generator, seed)
    slots = (0, config.num_ws - 1)
    sigmas = variances[:count].sqrt().tolist()
    return {f"pc{index}": Direction(components[index], slots, sigma) for index, sigma in enumerate(sigmas)}


def import_directions(
    generator: Generator, foreign: ForeignDirections, *, layers: tuple[int, int] | None = None, seed: int = 0
) -> dict[str, Direction]:
    """Return directions of another tool's file for ``generator``: of length 1, each with its sense as in the file.

    Sigma is measured on the 10,000 mapped latents of :func:`find_directions`; where the file states another, a warning
    is logged. ``layers``: first and last slot to move, by default all, or those that a direction has vectors for.
    Raises InputError for directions that do not fit or along which w does not vary, UsageError for impossible layers.
    """
    vectors = {name: placed(foreign, name, generator.config, layers) for name in foreign.vectors}
    components, variances = principal_components(generator, seed)
    made: dict[str, Direction] = {}
    for name, (vector, slots) in vectors.items():
        along = vector.double() @ components.T.double()
        sigma = float((along.square() @ variances).mean().sqrt())
        if not sigma > _STILL * math.sqrt(float(variances[0])):
            raise InputError(f"{foreign.source}: w does not vary along {name}, so a step has no unit")
        made[name] = Direction(vector, slots, sigma)
    for name, stated in foreign.sigmas.items():
        if name in made and abs(stated - made[name].sigma) > _SIGMA_AGREES * made[name].sigma:
            logger.warning(
                "%s: the standard deviation along %s is %.3g in the file and %.3g in this generator: was the file made "
                "for another one?", foreign.source, name, stated, made[name].sigma,
            )  # fmt: skip
            break
    return made


def parse_edits(words: Sequence[str], directions: Mapping[str, Direction]) -> list[tuple[Direction, float]]:
    """Parse ["pc0=2", "pc3=-1.5"] to directions and standard deviations. Raises UsageError for an unknown name."""
    edits, known = [], ", ".join(directions)
    for word in words:
        name, _, number = word.rpartition("=")
        try:
            steps = float(number)
        except ValueError:
            steps = math.nan
        if not name or not math.isfinite(steps):
            raise UsageError(
                f"--direction {word!r} is not NAME=STRENGTH", f"Write a name of the file ({known}) and a number: age=2."
            )
        if name not in directions:
            raise UsageError(f"--direction {word!r}: no direction {name!r}", f"Use a name of the file: {known}.")
        edits.append((directions[name], steps))
    return edits


# ---- what they change ----


@dataclass(frozen=True)
class DirectionReport:
    """Effects of one direction. ``images``: cosine between the pixel changes of teacher and student, mean over seeds.

    ``correlation``: Pearson correlation over the factors between the changes of both. ``strongest``: the factor that
    changes most in the teacher, with both changes in standard deviations of the data. None if factors cannot be read.
    """

    name: str
    images: float
    correlation: float | None = None
    strongest: str | None = None
    teacher_change: float | None = None
    student_change: float | None = None


@dataclass(frozen=True)
class EditingReport:
    """Agreement of teacher and student over all directions. ``images``: mean of ``images`` of the directions.

    ``correlation``: Pearson correlation over all pairs of direction and factor. ``slope``: least squares through zero,
    the student's change per unit of the teacher's (1: as strong, below 1: weaker). ``same_strongest``: share of
    directions with the same strongest factor in both. These three are None if factors cannot be read.
    """

    images: float
    correlation: float | None
    slope: float | None
    same_strongest: float | None
    directions: tuple[DirectionReport, ...]
    samples: int
    steps: float


def compare_editing(
    student: Generator,
    teacher: Generator,
    directions: Mapping[str, Direction],
    *,
    samples: int = SAMPLES,
    steps: float = STEPS,
    seed: int = 0,
    progress: Progress | None = None,
) -> EditingReport:
    """Edit ``samples`` latents in both generators by ``steps`` standard deviations in both directions; compare changes.

    The changes are G(w + d) - G(w - d) and, for avatars, half the difference of each factor; see
    :func:`factor_changes`. Raises UsageError for fewer than 2 samples, InputError for directions that do not fit.
    """
    if samples < 2 or not steps > 0:
        raise UsageError(f"{samples} samples, {steps:g} steps", "Choose at least 2 samples, and steps above 0.")
    check_directions(directions, teacher.config)
    check_directions(directions, student.config)
    z, c = draw_latents(teacher.config, samples, stream(seed, "editing"))
    readable = all(
        one.config.image_size == (RESOLUTION, RESOLUTION) and not one.config.c_dim for one in (teacher, student)
    )
    reports: list[DirectionReport] = []
    matrices: list[Matrix] = []
    for index, (name, direction) in enumerate(directions.items()):
        part = shifted(progress, index * samples, len(directions) * samples)
        cosine, effects = _compare_direction(student, teacher, direction, (z, c), steps, readable, part)
        if effects is None:
            reports.append(DirectionReport(name, cosine))
            continue
        matrices.append(effects)
        own, wanted = effects
        at = int(np.abs(wanted).argmax())
        changes = COLUMNS[at], float(wanted[at]), float(own[at])
        reports.append(DirectionReport(name, cosine, _pearson(own, wanted), *changes))
    images = float(np.mean([one.images for one in reports]))
    if not readable:
        return EditingReport(images, None, None, None, tuple(reports), samples, steps)
    student_effects, teacher_effects = np.stack(matrices, axis=1)  # [directions, columns] each
    same = np.abs(student_effects).argmax(axis=1) == np.abs(teacher_effects).argmax(axis=1)
    return EditingReport(
        images,
        _pearson(student_effects.ravel(), teacher_effects.ravel()),
        float((student_effects * teacher_effects).sum() / np.square(teacher_effects).sum()),
        float(same.mean()),
        tuple(reports),
        samples,
        steps,
    )


@torch.no_grad()
def _compare_direction(
    student: Generator,
    teacher: Generator,
    direction: Direction,
    latents: tuple[Tensor, Tensor | None],
    steps: float,
    readable: bool,
    progress: Progress | None,
) -> tuple[float, Matrix | None]:
    """Return the mean cosine of the pixel changes, and factor changes [2, columns] of student and teacher."""
    z, c = latents
    cosines: list[Tensor] = []
    read: list[list[Factors]] = [[], [], [], []]  # student -, student +, teacher -, teacher +
    for start in range(0, len(z), _BATCH):
        rows = slice(start, start + _BATCH)
        images = [
            _draw(network, z[rows], None if c is None else c[rows], direction, sign * steps)
            for network in (student, teacher)
            for sign in (-1.0, 1.0)
        ]
        change, wanted = (images[1] - images[0]).flatten(1), (images[3] - images[2]).flatten(1).to(images[0].device)
        cosines.append(torch.cosine_similarity(change.double(), wanted.double(), dim=1).cpu())
        for found, drawn in zip(read, images, strict=True):
            if readable:
                found.append(load_avatar_reader(str(drawn.device)).read(drawn))
        if progress:
            progress(min(start + _BATCH, len(z)), len(z))
    if not readable:
        return float(torch.cat(cosines).mean()), None
    before, after, teacher_before, teacher_after = (Factors(np.concatenate([p.table for p in parts])) for parts in read)
    effects = np.stack([factor_changes(before, after), factor_changes(teacher_before, teacher_after)])
    return float(torch.cat(cosines).mean()), effects


def _draw(generator: Generator, z: Tensor, c: Tensor | None, direction: Direction, steps: float) -> Tensor:
    device = next(generator.parameters()).device
    ws = generator.mapping(z.to(device), None if c is None else c.to(device))
    return to_8_bit(generator.synthesis(direction.move(ws, steps)))


COLUMNS: tuple[str, ...] = tuple(
    name
    for factor in FACTORS
    for name in (
        [f"{factor.name}={value}" for value in factor.values] if factor.kind == "categorical" else [factor.name]
    )
)
"""Names of the changes that :func:`factor_changes` returns, in order."""


def factor_changes(before: Factors, after: Factors) -> Matrix:
    """Return half the mean change of every factor between paired rows, float64 [len(COLUMNS)], in standard deviations
    of the data. Circular factors change by the shorter way; for categories the rate of each value counts."""
    changes: list[float] = []
    for factor in FACTORS:
        first, second = (table.column(factor.name).astype(np.float64) for table in (before, after))
        if factor.kind == "categorical":
            for value, rate in enumerate(factor.probabilities):
                moved = np.mean(second == value) - np.mean(first == value)
                changes.append(float(moved) / np.sqrt(rate * (1.0 - rate)))
        elif factor.kind == "circular":
            turned = np.mod(second - first + 0.5, 1.0) - 0.5
            changes.append(float(turned.mean()) * np.sqrt(12.0))  # uniform on one turn
        else:
            changes.append(float((second - first).mean()) * np.sqrt(3.0))  # uniform on [-1, 1]
    return np.array(changes) / 2.0


def _pearson(a: Matrix, b: Matrix) -> float | None:
    """Return the correlation, or None if one of them is constant."""
    if a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])
