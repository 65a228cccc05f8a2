"""``build``: all stages from a teacher to a measured student, each of them run, reused or resumed."""

from __future__ import annotations

from .builder import Run, build
from .plan import BuildPlan, plan_build

__all__ = [
    "BuildPlan",
    "Run",
    "build",
    "plan_build",
]
