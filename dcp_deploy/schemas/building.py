"""What ``build`` answers: the figures and record of the run, or its plan with --dry-run."""

from __future__ import annotations

from ..benchmarks.machine.environment import Environment
from ..config import BuildConfig
from ..pipeline.plan import Estimate
from ..pipeline.record import RunRecord
from .base import Document, Facts, Part, described_by
from .networks import Plan
from .runs import Summary


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
