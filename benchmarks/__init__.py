"""Measuring how fast a generator is, so that a sceptical reader believes it.

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
    "isolated",
    "machine_ceilings",
    "open_candidate",
    "open_matrix",
    "plan",
    "read_run",
    "within_bound",
]

if TYPE_CHECKING:
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
else:
    __getattr__, __dir__ = import_on_use(
        __name__,
        {
            "candidate": ("Candidate", "Skipped"),
            "capacity": ("check_bound", "within_bound"),
            "comparison": ("Comparison", "compare_runs", "read_run"),
            "environment": ("Environment", "capture_environment"),
            "isolation": ("isolated",),
            "latency": ("benchmark",),
            "matrix": ("open_matrix", "plan"),
            "opening": ("open_candidate",),
            "results": ("BenchReport", "BenchRow"),
            "roofline": ("machine_ceilings",),
        },
    )
