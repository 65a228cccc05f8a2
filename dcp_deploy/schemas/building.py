"""What ``build`` answers: what it gained and did, or with --dry-run what it would do."""

from __future__ import annotations

from typing import Literal

from ..benchmarks.machine.environment import Environment
from ..config import BuildConfig
from ..pipeline.record import StageRecord
from .base import Document, Facts, Part
from .networks import Plan


class Speedup(Part):
    """Ratio of median latencies, baseline over the fastest student, with its interval."""

    value: float
    low: float | None
    high: float | None
    same_backend: float | None
    """Teacher over student on the same backend: what compression alone gained."""


class ParitySummary(Part):
    """Whether the exported files draw what the networks draw."""

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
    """The candidate of the bench that the speedup is of."""
    baseline: str | None
    parity: ParitySummary
    quality: dict[str, QualitySummary]
    images: Facts | None
    """What the real images were."""
    not_measured: str | None
    """Why there are no figures of quality."""
    networks: dict[str, NetworkSummary]
    files: dict[str, int]
    """Bytes of each model's file."""
    engine: str | None
    no_engine: str | None
    """Why there is no engine."""
    report: str


class Tool(Part):
    """Who wrote the run."""

    name: str
    version: str


class RunFile(Document):
    """``run.json``, and where it lies."""

    tool: Tool
    status: Literal["running", "finished", "failed", "interrupted"]
    command: str
    started: str
    finished: str | None
    seconds: float
    config: BuildConfig
    effort: Facts
    environment: Environment
    images: Facts
    teacher: Facts
    networks: dict[str, Facts]
    stages: dict[str, StageRecord]
    directory: str
    report: str


class Built(Document):
    """A finished build."""

    summary: Summary
    run: RunFile


class Guess(Part):
    """About what a build takes on this machine."""

    images_per_second: float
    """Of the teacher, measured just now."""
    seconds: dict[str, float]
    total_seconds: float
    memory_bytes: int
    disk_bytes: int


class Planned(Document, Plan):
    """--dry-run with the teacher at hand."""

    config: BuildConfig
    effort: Facts
    images: Facts
    fetch: None
    estimate: Guess


class Fetching(Part):
    """A teacher that lies elsewhere."""

    file: str
    url: str
    megabytes: int | None
    licence: str


class PlannedFetch(Document):
    """--dry-run before the teacher is here: its widths, and all that follows from them, are not known yet."""

    config: BuildConfig
    effort: Facts
    fetch: Fetching
    estimate: None
