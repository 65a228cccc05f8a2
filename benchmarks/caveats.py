"""Caveats: what a reader should know before trusting a figure. They are the notes of the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .candidates.candidate import Skipped
from .machine.clocks import Clocks
from .machine.environment import Environment
from .results import BenchRow
from .scenarios import Scenario
from .statistics import needed_count

_BUSY = 0.1  # share of the usable cores that other processes may take without a caveat


def caveats_of(
    rows: Sequence[BenchRow],
    environment: Environment,
    others: float | None,
    clocks: Clocks,
    skipped: Sequence[Skipped],
    scenario: Scenario,
) -> Iterator[str]:
    """Yield one sentence per caveat. ``others``: cores that other processes took, None if not known."""
    if scenario.name != "latency":
        yield f"Mode: {scenario.label}."
    drifting = [f"{row.name} ({row.stability.drift:+.1%})" for row in rows if row.stability.verdict == "drifting"]
    if drifting:
        yield f"Unstable: the second half of the run differs from the first for {', '.join(drifting)}. Measure again."
    if any(row.stability.verdict == "too few samples" for row in rows):
        yield "Too few rounds to say whether the machine was stable."
    if any(row.summary.p99_indicative for row in rows):
        count = rows[0].summary.count
        yield f"p99 is indicative (~): {count} samples, and a bound on it needs {needed_count(0.99)}."
    cores = environment.usable_cores
    if others is not None and cores is not None and others > _BUSY * cores:
        yield f"Other load: other processes took {others:.1f} of {cores} cores during the run."
    yield from clocks.caveats()
    bound = [row.name for row in rows if row.phases is not None and row.phases.enqueue_bound]
    if bound:
        yield f"Enqueue-bound: the GPU waits for the host's launches in {', '.join(bound)}; a CUDA graph helps."
    yield from (f"Skipped: {one.name}: {one.reason}" for one in skipped)
