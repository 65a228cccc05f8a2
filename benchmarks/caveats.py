"""Caveats: what a reader should know before trusting a figure. They are the notes of the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .candidates.candidate import Skipped
from .machine.clocks import Clocks
from .machine.environment import Environment
from .results import BenchRow
from .scenarios import SCENARIOS, Scenario
from .statistics import needed_count

_BUSY = 0.1  # share of the usable cores that other processes may take without a caveat


def caveats_of(
    rows: Sequence[BenchRow],
    environment: Environment,
    others: float | None,
    clocks: Clocks,
    skipped: Sequence[Skipped] = (),
    scenario: Scenario = SCENARIOS["latency"],
) -> tuple[str, ...]:
    """Return one sentence per caveat. ``others``: cores that other processes took, None if not known."""
    found = [] if scenario.name == "latency" else [f"Mode: {scenario.label}."]
    found += [*_on_samples(rows), *_on_load(environment, others), *clocks.caveats()]
    bound = [row.name for row in rows if row.phases is not None and row.phases.enqueue_bound]
    if bound:
        found.append(f"Enqueue-bound: the GPU waits for the host's launches in {', '.join(bound)}; a CUDA graph helps.")
    return (*found, *(f"Skipped: {one.name}: {one.reason}" for one in skipped))


def _on_samples(rows: Sequence[BenchRow]) -> Iterator[str]:
    drifting = [row for row in rows if row.stability.verdict == "drifting"]
    if drifting:
        parts = ", ".join(f"{row.name} ({row.stability.drift:+.1%})" for row in drifting)
        yield f"Unstable: the second half of the run differs from the first for {parts}. Measure again."
    if any(row.stability.verdict == "too few samples" for row in rows):
        yield "Too few rounds to say whether the machine was stable."
    if any(row.summary.p99_indicative for row in rows):
        count = rows[0].summary.count
        yield f"p99 is indicative (~): {count} samples, and a bound on it needs {needed_count(0.99)}."


def _on_load(environment: Environment, others: float | None) -> Iterator[str]:
    cores = environment.usable_cores
    if others is not None and cores is not None and others > _BUSY * cores:
        yield f"Other load: other processes took {others:.1f} of {cores} cores during the run."
