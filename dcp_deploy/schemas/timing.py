"""What ``bench`` and ``bench compare`` answer. Nothing slow is imported here: two runs are compared without torch."""

from __future__ import annotations

from ..benchmarks import comparison, results
from ..benchmarks.fastest import Fastest
from ..benchmarks.statistics import Summary
from ..gates import Verdict
from .base import Document, Facts, Part, described_by


@described_by(results.BenchRow, Summary, without={"summary"})
class BenchRow(Part):
    """One candidate; latencies in milliseconds, in the order of the rounds."""

    labels: Facts
    """Model, backend, precision, threads, bytes of the file; empty for a plain callable."""


@described_by(results.BenchReport)
class Benched(Document):
    """bench, as in ``bench.json``."""

    stable: bool
    """Whether the figures can be trusted: ``unstable_because`` is empty."""
    rows: list[BenchRow]
    gates: Verdict | None = None
    """Outcomes of --require; null in a file that the build wrote, which has ``gates.json``."""
    fastest: Fastest | None = None
    """The fastest backend whose images pass the gate; null without a choice or a reference."""


@described_by(comparison.Comparison)
class BenchCompared(Document):
    """Two runs of bench. Candidates of only one of them are named, but get no verdict."""
