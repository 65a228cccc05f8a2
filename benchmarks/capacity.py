"""Throughput under a latency bound: how much one machine serves while p99 stays under so many milliseconds.

Two answers from the samples of a run at several batches. Back to back: the largest batch whose calls keep the bound,
and its images per second. Served: the highest rate of independent requests for one image each (a Poisson process) that
keeps it with the waiting counted, when whatever waits is drawn as one batch. That one replays the measured times and is
no measurement under load; a batch between two measured ones takes the time of the larger, as if filled up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from .results import Capacity

if TYPE_CHECKING:
    from .results import BenchReport, BenchRow

REQUESTS = 4000  # of a replay: forty of them beyond the 99th percentile
_WARM = 400  # first requests that meet an empty queue and are not counted
_HALVINGS = 14  # of the interval between a rate that keeps the bound and one that does not: less than 0.01 % of it

Times = Mapping[int, NDArray[np.float64]]
"""Batch -> milliseconds of its calls."""


def within_bound(report: BenchReport, bound_ms: float, *, seed: int = 0) -> BenchReport:
    """The report with a ``Capacity`` for every candidate. UsageError for a bound that is not positive."""
    check_bound(bound_ms)
    grouped: dict[str, list[BenchRow]] = {}
    for row in report.rows:
        grouped.setdefault(row.name.replace(f", batch {row.batch}", ""), []).append(row)
    found = tuple(_capacity(name, rows, bound_ms, seed) for name, rows in grouped.items())
    return replace(report, capacity=found)


def check_bound(bound_ms: float) -> None:
    """UsageError unless it is positive and finite."""
    if not 0 < bound_ms < math.inf:
        raise UsageError(f"the bound is {bound_ms} ms", "Give a positive number of milliseconds.")


def _capacity(name: str, rows: Sequence[BenchRow], bound_ms: float, seed: int) -> Capacity:
    keeping = [row for row in rows if row.summary.p99_ms <= bound_ms]
    best = max(keeping, key=lambda row: row.batch, default=None)
    times = {row.batch: np.array(row.samples_ms) for row in keeping}
    return Capacity(
        name=name,
        bound_ms=bound_ms,
        batch=best.batch if best else None,
        p99_ms=best.summary.p99_ms if best else None,
        images_per_second=best.images_per_second if best else None,
        requests_per_second=largest_rate(times, bound_ms, seed=seed) if times else None,
        indicative=any(row.summary.p99_indicative for row in rows),
    )


def largest_rate(times: Times, bound_ms: float, *, seed: int = 0, requests: int = REQUESTS) -> float | None:
    """Requests per second at most, so that 99 % of them have their image within the bound; None: not even few do.

    All rates meet the same draws, so a higher one differs by its rate alone. At most what batches back to back give.
    """

    def kept(rate: float) -> bool:
        waited = sojourns(times, rate, seed=seed, requests=requests)[_WARM:]
        return float(np.percentile(waited, 99)) <= bound_ms

    most = max(1e3 * batch / float(samples.mean()) for batch, samples in times.items())
    low, high = most * 1e-3, most
    if not kept(low):
        return None
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if kept(middle) else (low, middle)
    return low


def sojourns(times: Times, rate: float, *, seed: int, requests: int) -> NDArray[np.float64]:
    """Milliseconds from the arrival of each request to its image, one server, first come first served.

    When the server is free it takes all that wait, up to the largest batch, and needs the time of one measured call of
    the smallest batch that holds them.
    """
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1e3 / rate, requests))
    draws = rng.random(requests)
    sizes = sorted(times)
    waited = np.empty(requests)
    free, served = 0.0, 0
    while served < requests:
        start = max(free, float(arrivals[served]))
        waiting = int(np.searchsorted(arrivals, start, side="right")) - served
        taken = min(waiting, sizes[-1])
        samples = times[next(size for size in sizes if size >= taken)]
        free = start + float(samples[int(draws[served] * len(samples))])
        waited[served : served + taken] = free - arrivals[served : served + taken]
        served += taken
    return waited
