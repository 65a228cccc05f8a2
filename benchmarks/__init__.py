"""Measuring how fast a generator is, so that a sceptical reader believes it."""

from __future__ import annotations

from .candidates import BASELINE, file_candidates, generator_candidates
from .environment import Environment, capture_environment
from .latency import Candidate, benchmark
from .results import BenchReport, BenchRow

__all__ = [
    "BASELINE",
    "BenchReport",
    "BenchRow",
    "Candidate",
    "Environment",
    "benchmark",
    "capture_environment",
    "file_candidates",
    "generator_candidates",
]
