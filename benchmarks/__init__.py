"""Measuring how fast a generator is, so that a sceptical reader believes it."""

from __future__ import annotations

from .candidate import Candidate, Skipped
from .capacity import check_bound, within_bound
from .comparison import Comparison, compare_runs, read_run
from .environment import Environment, capture_environment
from .isolation import isolated
from .latency import benchmark
from .matrix import open_matrix, plan
from .opening import open_candidate
from .results import BenchReport, BenchRow
from .roofline import machine_ceilings

__all__ = [
    "BenchReport",
    "BenchRow",
    "Candidate",
    "Comparison",
    "Environment",
    "Skipped",
    "benchmark",
    "capture_environment",
    "check_bound",
    "compare_runs",
    "isolated",
    "machine_ceilings",
    "open_candidate",
    "open_matrix",
    "plan",
    "read_run",
    "within_bound",
]
