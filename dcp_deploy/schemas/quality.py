"""What the verbs answer that measure quality: eval, directions, project."""

from __future__ import annotations

from ..evaluation.editing import EditingReport
from ..evaluation.projection import ProjectConfig
from ..gates import Verdict
from ..metrics.evaluate import Metrics
from ..metrics.likeness import Likeness, SeedDiversity
from ..metrics.photographs import DataMetrics
from .base import Document, Facts, Part, WithSettings, described_by

# ---- eval ----


@described_by(Likeness)
class Teacher(Part):
    """The model compared with its teacher, on the same latents."""

    seed_diversity: SeedDiversity
    """The teacher's."""
    seed_diversity_kept: float | None
    """The model's over the teacher's, in L1; null if the teacher's is 0."""


class Evaluated(Document):
    """eval."""

    seed_diversity: SeedDiversity
    teacher: Teacher | None = None
    editing: EditingReport | None = None
    gates: Verdict | None = None
    """Outcomes of --require."""
    collapsed: bool
    """Whether the generator makes the same image from all latents: exit code 5."""
    caveats: list[str]
    """What to know when reading or comparing the figures."""
    not_measured: dict[str, str]
    """Reasons, by the name of the figure that is missing."""


@described_by(Metrics)
class EvaluatedDemo(Evaluated):
    __doc__ = Metrics.__doc__

    features: str = "avatars"


@described_by(DataMetrics)
class EvaluatedData(Evaluated):
    __doc__ = DataMetrics.__doc__

    data: Facts
    """The real images."""


# ---- directions ----


class Direction(Part):
    """Where in w an edit goes."""

    layers: tuple[int, int]
    """First and last slot of ws that it moves."""
    sigma: float
    """Standard deviation of w along it: the unit of a strength."""


class DirectionsFound(WithSettings):
    """A file of editing directions: principal components by falling variance, or those of an imported file."""

    directions: dict[str, Direction]
    imported: str | None
    """Layout of the imported file, in words; null for principal components."""


# ---- project ----


class Projection(Part):
    """All images in one model. MSE: mean over the pixels' values in [-1, 1]; null: not measured."""

    file: str
    mse: float
    lpips: float | None
    mse_of_each: list[float]
    lpips_of_each: list[float] | None


@described_by(ProjectConfig)
class Projected(Document):
    """Images found again in one model or two, as in ``projection.json``."""

    images: list[str]
    models: dict[str, Projection]
    loss: str
    """What the search minimised."""
    not_measured: dict[str, str]
    path: str
    """The folder written."""
