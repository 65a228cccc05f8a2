"""What ``build`` answers: the figures and record of the run, or its plan with --dry-run."""

from __future__ import annotations

from ..benchmarks.machine.environment import Environment
from ..config import BuildConfig
from ..pipeline.plan import Estimate
from ..pipeline.record import RunRecord
from .base import Document, Facts, Part, described_by
from .networks import Plan


class Speedup(Part):
    """Median latency of the baseline over that of the fastest student, with its interval."""

    value: float
    low: float | None
    high: float | None
    same_backend: float | None
    """Teacher over student on the same backend: what compression alone gained."""


class ParitySummary(Part):
    """Whether the exported files generate the same images as the networks."""

    passed: bool | None
    difference: str
    """The student's largest difference, in words."""


class QualitySummary(Part):
    """Quality of one network; ``metrics.json`` has more."""

    fid: float | None
    mode_coverage: float | None


class NetworkSummary(Part):
    """Size of one network; MACs are per image, bytes those of its safetensors file."""

    parameters: int | None
    macs: int | None
    bytes: int | None


class Summary(Part):
    """The figures of the run. null: not measured."""

    speedup: Speedup | None
    fastest: str | None
    """Name of the fastest student in the benchmark."""
    baseline: str | None
    parity: ParitySummary
    quality: dict[str, QualitySummary]
    images: Facts | None
    """The real images."""
    not_measured: str | None
    """Why quality was not measured."""
    networks: dict[str, NetworkSummary]
    files: dict[str, int]
    """Bytes of each model's file."""
    engine: str | None
    no_engine: str | None
    """Why no engine was built."""
    report: str


class Tool(Part):
    """The program that wrote the run."""

    name: str
    version: str


@described_by(RunRecord)
class RunFile(Document):
    """``run.json``, and where it lies."""

    tool: Tool
    config: BuildConfig
    environment: Environment
    directory: str
    report: str


class Built(Document):
    """A finished build."""

    summary: Summary
    run: RunFile


@described_by(Estimate)
class Guess(Part):
    """Rough cost of a build on this machine."""

    total_seconds: float


class Planned(Document, Plan):
    """--dry-run when the teacher's file is on this machine."""

    config: BuildConfig
    effort: Facts
    images: Facts
    fetch: None
    estimate: Guess


class Fetching(Part):
    """The file of a teacher that has to be downloaded."""

    file: str
    url: str
    megabytes: int | None
    licence: str


class PlannedFetch(Document):
    """--dry-run before the teacher is downloaded: its widths, and all that follows from them, are not known yet."""

    config: BuildConfig
    effort: Facts
    fetch: Fetching
    estimate: None
