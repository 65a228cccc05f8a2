"""Caveats: what a reader should know before trusting a figure. They are the notes of the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .candidates.candidate import Skipped
from .machine.clocks import Clocks
from .machine.environment import BUSY, Environment
from .results import BenchRow
from .scenarios import Scenario
from .statistics import needed_count

_WIDE = 1.25  # ratio of an interval's ends from which on a speed-up is too uncertain to be a headline


def instability(rows: Sequence[BenchRow], environment: Environment, others: float | None) -> Iterator[str]:
    """Yield each reason not to trust the figures of a run. ``others``: cores that other processes took, if known."""
    if cores_are_shared(environment, others):  # first: a headline has one reason only
        yield f"other processes took {others:.1f} of {environment.usable_cores} cores"
    if any(row.stability.verdict == "too few samples" for row in rows):
        yield "too few rounds to say whether the machine was stable"
    drifting = [f"{row.name} ({row.stability.drift:+.1%})" for row in rows if row.stability.verdict == "drifting"]
    if drifting:
        yield f"the second half of the run differs from the first for {', '.join(drifting)}"
    for row in rows:
        if row.speedup is not None and row.speedup.high > _WIDE * row.speedup.low:
            yield f"the speed-up of {row.name} is uncertain, {row.speedup.low:.2f} to {row.speedup.high:.2f}"


def cores_are_shared(environment: Environment, others: float | None) -> bool:
    """Whether other processes took so much of the cores that latencies cannot be trusted; False if not known."""
    cores = environment.usable_cores
    return others is not None and cores is not None and others > BUSY * cores


def caveats_of(
    rows: Sequence[BenchRow],
    unstable: Sequence[str],
    clocks: Clocks,
    skipped: Sequence[Skipped],
    scenario: Scenario,
) -> Iterator[str]:
    """Yield one sentence per caveat. ``unstable``: the reasons of :func:`instability`."""
    if scenario.name != "latency":
        yield f"Mode: {scenario.label}."
    if unstable:
        yield f"Unstable, measure again: {'; '.join(unstable)}."
    if any(row.summary.p99_indicative for row in rows):
        count = rows[0].summary.count
        yield f"p99 is indicative (~): {count} samples, and a bound on it needs {needed_count(0.99)}."
    yield from clocks.caveats()
    bound = [row.name for row in rows if row.phases is not None and row.phases.enqueue_bound]
    if bound:
        yield f"Enqueue-bound: the GPU waits for the host's launches in {', '.join(bound)}; a CUDA graph helps."
    yield from (f"Skipped: {one.name}: {one.reason}" for one in skipped)
