"""What the verbs answer that look at models: compare, time, draw."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from ..benchmarks.candidate import ColdStart, Memory, Phases, Skipped
from ..benchmarks.capacity import Capacity
from ..benchmarks.clocks import Clocks
from ..benchmarks.comparison import ComparedRow
from ..benchmarks.environment import Environment
from ..benchmarks.results import Method
from ..benchmarks.roofline import Rate, Roofline
from ..benchmarks.statistics import Interval, Stability, Summary
from ..export.bisect import LayerDistance
from ..export.distances import ImageDistance
from ..export.live import Load
from ..export.tolerance import Check, Tolerance
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


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BenchRow(Summary):
    """One candidate; latencies in milliseconds."""

    name: str
    labels: Facts
    """Model, backend, precision, threads, bytes of the file."""
    warmup_calls: int
    p99_indicative: bool
    """True when there are too few samples to bound the 99th percentile."""
    images_per_second: float
    speedup: Interval | None
    """Over the baseline; null for the baseline itself."""
    stability: Stability
    batch: int
    """Images per call."""
    intervals: dict[str, Interval | None]
    """Of the percentiles; null where there are too few samples for one."""
    phases: Phases | None
    """Of a call on a device; null: not measured."""
    cold_start: ColdStart | None
    """In a process of its own; null: not measured."""
    memory: Memory | None
    roofline: Roofline | None
    """What the machine's limits allow; null: the work is not known."""
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
    mode: str
    skipped: list[Skipped]
    """What cannot run on this machine, and why."""
    ceilings: list[Rate]
    """The machine's own speed, measured in the same run."""
    clocks: Clocks | None
    capacity: list[Capacity]
    """Throughput under a bound on latency."""


class BenchCompared(Document):
    """Two runs of bench. Candidates of one of them only are named, not judged."""

    rows: list[ComparedRow]
    only_a: list[str]
    only_b: list[str]
    notes: list[str]


# ---- sample ----


class Sampled(Document):
    """A picture."""

    path: str
    backend: str
    settings: str
    """TOML file with the flags that make it again: ``--config``."""
