"""What the verbs answer that measure quality: eval, directions, project."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from ..evaluation.editing import EditingReport
from ..metrics.evaluate import Metrics
from ..metrics.likeness import SeedDiversity
from ..metrics.photographs import DataMetrics
from .base import STRICT, Document, Facts, Part

# ---- eval ----


class Teacher(Part):
    """The model beside its teacher, on the same latents."""

    l1: float
    """Mean absolute difference of the values in [-1, 1]."""
    lpips: float | None
    samples: int
    seed_diversity: SeedDiversity
    """The teacher's."""
    seed_diversity_kept: float | None
    """The model's over the teacher's, in L1; null when the teacher has none."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluatedDemo(Metrics):
    __doc__ = Metrics.__doc__

    schema: Literal[1]
    seed_diversity: SeedDiversity
    teacher: Teacher | None = None
    editing: EditingReport | None = None
    not_measured: dict[str, str]
    """Why there is no figure, by its name."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluatedData(DataMetrics):
    __doc__ = DataMetrics.__doc__

    schema: Literal[1]
    data: Facts
    """The real images."""
    seed_diversity: SeedDiversity
    teacher: Teacher | None = None
    editing: EditingReport | None = None
    not_measured: dict[str, str]
    """Why there is no figure, by its name."""


# ---- directions ----


class Direction(Part):
    """Where in w an edit goes."""

    layers: tuple[int, int]
    """First and last slot of ws that it moves."""
    sigma: float
    """Standard deviation of w along it: the unit of a strength."""


class DirectionsFound(Document):
    """A file of editing directions, by falling variance."""

    path: str
    directions: dict[str, Direction]
    settings: str
    """TOML file with the flags that make it again: ``--config``."""


# ---- project ----


class Projection(Part):
    """All images in one model. MSE: mean over the pixels' values in [-1, 1]; null: not measured."""

    file: str
    mse: float
    lpips: float | None
    mse_of_each: list[float]
    lpips_of_each: list[float] | None


class Projected(Document):
    """Images found again in one model or two, as in ``projection.json``."""

    images: list[str]
    models: dict[str, Projection]
    loss: str
    """What the search minimised."""
    space: Literal["w", "w+"]
    steps: int
    rate: float
    explore: float
    noise: bool
    noise_weight: float
    seed: int
    not_measured: dict[str, str]
    path: str
    """The folder written."""
