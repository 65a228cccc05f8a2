"""What the verbs answer that look at models: compare, time, draw, measure quality, edit, project."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from ..benchmarks.environment import Environment
from ..benchmarks.results import Method
from ..benchmarks.statistics import Interval, Stability
from ..editing import EditingReport
from ..export.bisect import LayerDistance
from ..export.distances import ImageDistance
from ..export.live import Load
from ..export.tolerance import Check, Tolerance
from ..metrics.evaluate import Metrics
from ..metrics.likeness import SeedDiversity
from ..metrics.photographs import DataMetrics
from .base import STRICT, Document, Facts, Part

# ---- verify ----


class Worst(Part):
    """The sample that differs most."""

    seed: int
    psi: float


class Layers(Part):
    """--bisect: the two networks compared layer by layer."""

    first: str | None
    """The first layer out of tolerance; null: none is."""
    verdict: str
    batch: list[tuple[int, float]]
    """Seed and psi of each sample."""
    rows: list[LayerDistance]
    """In the order of computation."""


class Parity(Part):
    """Two artefacts compared on the same latents.

    ``max_abs``, ``mean_abs``, ``p999_abs`` (99.9 % quantile) in [-1, 1]; ``max_steps``, ``mean_steps``, ``p999_steps``
    in steps of 8 bits; ``differing`` is a share of the values; ``least_``: of the least alike image. null: not finite,
    or not to be had from 8 bits.
    """

    passed: bool
    a: Facts
    """The reference: name, backend, image."""
    b: Facts
    images: int
    psis: list[float]
    seeds: tuple[int, int]
    """First and last."""
    batches: list[int]
    precision: str | None
    tolerance: Tolerance
    checks: list[Check]
    max_abs: float | None
    mean_abs: float | None
    p999_abs: float | None
    psnr_db: float | None
    least_psnr_db: float | None
    ssim: float | None
    least_ssim: float | None
    max_steps: int | None
    mean_steps: float | None
    p999_steps: int | None
    differing: float | None
    worst: Worst | None
    worst_list: list[ImageDistance]
    layers: Layers | None


class Verified(Document, Parity):
    """verify A B. With ``passed`` false the exit code is 5."""


class VerifiedServer(Document):
    """verify BUNDLE http://HOST:PORT. With ``passed`` false the exit code is 5."""

    passed: bool
    address: str
    model: str
    first_ms: float
    """The very first request, of one image."""
    alone: Parity
    load: Load | None
    under_load: list[Parity]


# ---- bench ----


class BenchRow(Part):
    """One candidate; latencies in milliseconds."""

    name: str
    labels: Facts
    """Model, backend, precision, threads, bytes of the file."""
    warmup_calls: int
    count: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    std_ms: float
    min_ms: float
    max_ms: float
    p99_indicative: bool
    """True when there are too few samples to bound the 99th percentile."""
    images_per_second: float
    speedup: Interval | None
    """Over the baseline; null for the baseline itself."""
    stability: Stability
    samples_ms: list[float]
    """In the order of the rounds."""


class Benched(Document):
    """bench, as in ``bench.json``."""

    baseline: str
    batch: int
    stable: bool
    other_load: float | None
    """Cores' worth of time that other processes took; null when not known."""
    notes: list[str]
    rows: list[BenchRow]
    method: Method
    environment: Environment


# ---- sample, eval ----


class Sampled(Document):
    """A picture."""

    path: str
    backend: str
    settings: str
    """TOML file with the flags that make it again: ``--config``."""


class AgainstTeacher(Part):
    """A student and its teacher, of equal latents. ``lpips`` is null where it was not measured."""

    l1: float
    lpips: float | None
    samples: int
    seed_diversity: SeedDiversity
    """The teacher's."""
    seed_diversity_kept: float | None
    """The student's L1 over it; null where the teacher has none."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Evaluated(Metrics):
    __doc__ = Metrics.__doc__

    schema: Literal[1]
    seed_diversity: SeedDiversity
    not_measured: dict[str, str]
    """The reason for every figure that there is none of."""
    teacher: AgainstTeacher | None = None
    """With --teacher."""
    editing: EditingReport | None = None
    """With --directions."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluatedOnData(DataMetrics):
    """With --data: quality against real images."""

    schema: Literal[1]
    data: Facts
    seed_diversity: SeedDiversity
    not_measured: dict[str, str]
    """The reason for every figure that there is none of."""
    teacher: AgainstTeacher | None = None
    """With --teacher."""
    editing: EditingReport | None = None
    """With --directions."""


# ---- directions, project ----


class DirectionFacts(Part):
    """First and last slot of ws that it moves, and the standard deviation of w along it."""

    layers: tuple[int, int]
    sigma: float


class DirectionsFound(Document):
    """A file of directions."""

    path: str
    directions: dict[str, DirectionFacts]
    settings: str
    """TOML file with the flags that make it again: ``--config``."""


class ProjectedModel(Part):
    """How close a generator comes to the images: means, and the figures of each. LPIPS is null where not measured."""

    file: str
    mse: float
    """Over values in [-1, 1]."""
    lpips: float | None
    mse_of_each: list[float]
    lpips_of_each: list[float] | None


class Projected(Document):
    """A folder of codes and pictures, as in its ``projection.json``."""

    path: str
    images: list[str]
    models: dict[str, ProjectedModel]
    """"model", and "teacher" where one was given."""
    loss: str
    space: str
    steps: int
    rate: float
    explore: float
    noise: bool
    noise_weight: float
    seed: int
    not_measured: dict[str, str]
    """The reason for every figure that there is none of."""
