"""Several runs side by side: figures, images and a recommendation, as JSON, table and one HTML file."""

from __future__ import annotations

from .runs import ComparedRun, RunComparison, compare

__all__ = ["ComparedRun", "RunComparison", "compare"]
