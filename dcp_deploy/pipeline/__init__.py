"""``build``: all stages from a teacher to a measured student, each done, reused or resumed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import import_on_use

__all__ = [
    "BuildPlan",
    "Run",
    "build",
    "plan_build",
]

if TYPE_CHECKING:
    from .builder import Run, build
    from .plan import BuildPlan, plan_build
else:
    __getattr__, __dir__ = import_on_use(
        __name__,
        {
            "builder": ("Run", "build"),
            "plan": ("BuildPlan", "plan_build"),
        },
    )
