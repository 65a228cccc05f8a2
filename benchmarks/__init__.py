"""Measuring how fast a generator is, so that a sceptical reader believes it."""

from __future__ import annotations

from .candidate import Candidate, Skipped
from .candidates import BASELINE, file_candidates, generator_candidates
from .comparison import Comparison, compare_runs, read_run
from .environment import Environment, capture_environment
from .latency import benchmark
from .results import BenchReport, BenchRow

__all__ = [
    "BASELINE",
    "BenchReport",
    "BenchRow",
    "Candidate",
    "Comparison",
    "Environment",
    "Skipped",
    "benchmark",
    "capture_environment",
    "compare_runs",
    "file_candidates",
    "generator_candidates",
    "read_run",
]
