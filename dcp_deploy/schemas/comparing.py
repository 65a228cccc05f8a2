"""What ``compare`` and ``sweep`` answer."""

from __future__ import annotations

from ..report import comparing
from .base import Document, Facts, Part, described_by


class ComparedSpeedup(Part):
    """Ratio of medians with its 95 % interval."""

    value: float
    low: float | None
    high: float | None


@described_by(comparing.ComparedRun)
class ComparedRun(Part):
    """The figures of one run. null: not measured."""

    settings: Facts
    """Its values of the settings that differ among the runs."""
    speedup: ComparedSpeedup | None
    """Times as fast as the teacher."""


@described_by(comparing.RunComparison, without={"directories"})
class Compared(Document):
    """Runs side by side, and which one to take."""

    runs: list[ComparedRun]
    teacher: ComparedRun | None
    """The teacher's figures, if all runs have the same."""


class Swept(Compared):
    """Finished students of one teacher, compared."""

    directory: str
    page: str
    """The comparison as an HTML page."""


class SweepPlanned(Document):
    """--dry-run of a sweep."""

    students: list[Facts]
    """For each student what ``build --dry-run`` answers."""
