"""Throughput under a latency bound: the largest measured batch whose p99 stays within a limit."""

from __future__ import annotations

import math
from dataclasses import replace

from ..errors import UsageError
from .results import BenchReport, BenchRow, Capacity


def within_bound(report: BenchReport, bound_ms: float) -> BenchReport:
    """Return the report with a ``Capacity`` for every candidate. UsageError unless the bound is positive and finite."""
    check_bound(bound_ms)
    by_name: dict[str, list[BenchRow]] = {}
    for row in report.rows:
        by_name.setdefault(row.name.replace(f", batch {row.batch}", ""), []).append(row)
    capacity = []
    for name, rows in by_name.items():
        best = max((row for row in rows if row.summary.p99_ms <= bound_ms), key=lambda row: row.batch, default=None)
        batch, p99_ms, rate = (best.batch, best.summary.p99_ms, best.images_per_second) if best else (None,) * 3
        indicative = any(row.summary.p99_indicative for row in rows)
        capacity.append(Capacity(name, bound_ms, batch, p99_ms, rate, requests_per_second=None, indicative=indicative))
    return replace(report, capacity=tuple(capacity))


def check_bound(bound_ms: float) -> None:
    """Raise UsageError unless the bound is positive and finite."""
    if not 0 < bound_ms < math.inf:
        raise UsageError(f"the latency bound is {bound_ms} ms", "Give a positive number of milliseconds.")
