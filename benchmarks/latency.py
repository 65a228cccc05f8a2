"""The latency harness: interleaved rounds in one process, raw samples kept.

    warm up every candidate (a number of calls and a time, both)
    repeat until enough rounds and enough seconds:
        shuffle the candidates
        for each: wait a moment, call it once, keep the time

Comparing within a round is what makes the ratios believable: clocks, temperature and other load drift over seconds,
and all candidates of a round meet the same of it. What a candidate is (a torch module, an ONNX session, an engine)
does not matter here: it is a function without arguments that leaves its images in the host's memory.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from .environment import Environment, LoadMeter, capture_environment
from .results import BenchReport, BenchRow, Method
from .statistics import Interval, needed_count, ratio_of_medians, stability, summarise

Progress = Callable[[int, int], None]
"""Called as ``progress(done, total)``."""

_BUSY = 0.1  # share of the usable cores that others may take before a note says so


@dataclass(frozen=True)
class Candidate:
    """Something to time, and what to write beside its figures."""

    run: Callable[[], object]
    """One call: inputs fixed, images on the host when it returns."""
    model: str
    backend: str
    precision: str = "fp32"
    threads: int | None = None
    file_bytes: int | None = None

    def __call__(self) -> object:
        return self.run()

    def labels(self) -> dict[str, Any]:
        """Everything but the function."""
        return {
            "model": self.model,
            "backend": self.backend,
            "precision": self.precision,
            "threads": self.threads,
            "file_bytes": self.file_bytes,
        }


def benchmark(
    candidates: Mapping[str, Callable[[], object]],
    *,
    baseline: str,
    batch: int = 1,
    warmup_calls: int = 10,
    warmup_seconds: float = 0.5,
    min_rounds: int = 50,
    min_seconds: float = 10.0,
    pause_seconds: float = 0.005,
    seed: int = 0,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> BenchReport:
    """Time every candidate, one call a round, and compare each with the baseline.

    candidates: name -> function without arguments that makes ``batch`` images; a ``Candidate`` adds its labels.
    warmup_calls, warmup_seconds: every candidate is first called until both are reached; those calls are discarded.
    min_rounds, min_seconds: rounds go on until both are reached; seconds count the rounds of all candidates together.
    pause_seconds: idle time before each timed call, for thread pools to go to sleep after their last task: one that
        still spins takes the cores from the candidate that follows.
    seed: of the order within rounds and of the bootstrap.
    progress: called after each round, as progress(percent, 100).

    Raises UsageError for an unknown baseline or settings that measure nothing, ValueError when a candidate returns an
    image batch of another size than ``batch``.
    """
    _check_settings(candidates, baseline, batch, min_rounds, pause_seconds)
    environment = capture_environment()
    warmed = {
        name: _warm_up(name, call, batch, warmup_calls, warmup_seconds, clock) for name, call in candidates.items()
    }
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    order, meter = random.Random(seed), LoadMeter()
    begin, rounds, elapsed = clock(), 0, 0.0
    while rounds < min_rounds or elapsed < min_seconds:
        _measure_round(candidates, samples, order, pause_seconds, clock, sleep)
        rounds, elapsed = rounds + 1, clock() - begin
        if progress is not None:
            share = min(rounds / min_rounds, elapsed / min_seconds if min_seconds > 0 else 1.0, 1.0)
            progress(int(100 * share), 100)
    method = Method(rounds, elapsed, seed, min_rounds, min_seconds, warmup_calls, warmup_seconds, pause_seconds)
    rows = tuple(
        _row(name, call, warmed[name], samples[name], batch, _speedup(name, samples, baseline, seed))
        for name, call in candidates.items()
    )
    others = meter.others()
    return BenchReport(baseline, batch, rows, method, environment, others, _notes(rows, environment, others))


def _check_settings(
    candidates: Mapping[str, Callable[[], object]], baseline: str, batch: int, min_rounds: int, pause_seconds: float
) -> None:
    if baseline not in candidates:
        known = ", ".join(candidates) or "none"
        raise UsageError(f"no candidate is named {baseline!r}", f"The baseline must be one of: {known}.")
    for name, value, least in (("batch", batch, 1), ("rounds", min_rounds, 1), ("pause", pause_seconds, 0)):
        if value < least:
            raise UsageError(f"{name} is {value}", f"Give {least} or more.")


def _warm_up(
    name: str, call: Callable[[], object], batch: int, calls: int, seconds: float, clock: Callable[[], float]
) -> int:
    """Call until both limits are reached, at least once; return the number of calls."""
    begin, done = clock(), 0
    while done < max(calls, 1) or clock() - begin < seconds:
        _check_batch(name, call(), batch)
        done += 1
    return done


def _check_batch(name: str, result: object, batch: int) -> None:
    """Images per second would be wrong by the same factor as the batch."""
    shape = getattr(result, "shape", None)
    if shape is not None and len(shape) == 4 and shape[0] != batch:
        raise ValueError(f"{name} returned {shape[0]} images a call, but batch is {batch}")


def _measure_round(
    candidates: Mapping[str, Callable[[], object]],
    samples: dict[str, list[float]],
    order: random.Random,
    pause_seconds: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> None:
    for name in order.sample(list(candidates), len(candidates)):
        call = candidates[name]
        sleep(pause_seconds)
        begin = clock()
        call()
        samples[name].append((clock() - begin) * 1e3)


def _speedup(name: str, samples: Mapping[str, list[float]], baseline: str, seed: int) -> Interval | None:
    return None if name == baseline else ratio_of_medians(samples[baseline], samples[name], seed=seed)


def _row(
    name: str, call: Callable[[], object], warmup_calls: int, samples: list[float], batch: int, speedup: Interval | None
) -> BenchRow:
    summary = summarise(samples)
    return BenchRow(
        name=name,
        labels=call.labels() if isinstance(call, Candidate) else {},
        warmup_calls=warmup_calls,
        samples_ms=tuple(samples),
        summary=summary,
        images_per_second=batch * 1e3 / summary.p50_ms,
        speedup=speedup,
        stability=stability(samples),
    )


def _notes(rows: tuple[BenchRow, ...], environment: Environment, others: float | None) -> tuple[str, ...]:
    notes = []
    drifting = [row for row in rows if row.stability.verdict == "drifting"]
    if drifting:
        parts = ", ".join(f"{row.name} ({row.stability.drift:+.1%})" for row in drifting)
        notes.append(f"Unstable: the second half of the run differs from the first for {parts}. Measure again.")
    if any(row.stability.verdict == "too few samples" for row in rows):
        notes.append("Too few rounds to say whether the machine was stable.")
    if any(row.summary.p99_indicative for row in rows):
        count = rows[0].summary.count
        notes.append(f"p99 is indicative (~): {count} samples, and a bound on it needs {needed_count(0.99)}.")
    cores = environment.usable_cores
    if others is not None and cores is not None and others > _BUSY * cores:
        notes.append(f"Other load: other processes took {others:.1f} of {cores} cores during the run.")
    return tuple(notes)
