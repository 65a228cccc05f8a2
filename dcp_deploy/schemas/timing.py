"""What ``bench`` and ``bench compare`` answer. Nothing slow is imported here: two runs are compared without torch."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from ..benchmarks.candidates.candidate import ColdStart, Memory, Phases, Skipped
from ..benchmarks.comparison import ComparedRow
from ..benchmarks.machine.clocks import Clocks
from ..benchmarks.machine.environment import Environment
from ..benchmarks.machine.roofline import Rate, Roofline
from ..benchmarks.results import Capacity, Method
from ..benchmarks.statistics import Interval, Stability, Summary
from .base import STRICT, Document, Facts


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
