"""Benchmarks of generators: interleaved latencies with raw samples, intervals and a record of the machine.

The names are imported on first use, so that comparing two runs does not wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import import_on_use

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
    "fastest_that_passes",
    "isolated",
    "judge_speed",
    "machine_ceilings",
    "open_candidate",
    "open_matrix",
    "plan_matrix",
    "read_run",
    "wait_until_quiet",
    "within_bound",
]

if TYPE_CHECKING:
    from .candidates.candidate import Candidate, Skipped
    from .candidates.isolation import isolated
    from .candidates.loading import open_candidate
    from .candidates.matrix import open_matrix, plan_matrix
    from .capacity import check_bound, within_bound
    from .comparison import Comparison, compare_runs, read_run
    from .fastest import fastest_that_passes
    from .latency import benchmark, judge_speed
    from .machine.environment import Environment, capture_environment, wait_until_quiet
    from .machine.roofline import machine_ceilings
    from .results import BenchReport, BenchRow
else:
    __getattr__, __dir__ = import_on_use(
        __name__,
        {
            "candidates.candidate": ("Candidate", "Skipped"),
            "candidates.isolation": ("isolated",),
            "candidates.loading": ("open_candidate",),
            "candidates.matrix": ("open_matrix", "plan_matrix"),
            "capacity": ("check_bound", "within_bound"),
            "comparison": ("Comparison", "compare_runs", "read_run"),
            "fastest": ("fastest_that_passes",),
            "latency": ("benchmark", "judge_speed"),
            "machine.environment": ("Environment", "capture_environment", "wait_until_quiet"),
            "machine.roofline": ("machine_ceilings",),
            "results": ("BenchReport", "BenchRow"),
        },
    )
