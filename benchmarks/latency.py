"""The latency harness: interleaved rounds, raw samples kept.

    warm up every candidate (a number of calls and a time, both)
    repeat until enough rounds and enough seconds:
        shuffle the candidates
        for each: wait a moment, call it once, keep the time
        now and then: time the machine's ceilings, read its clocks

Ratios are comparable because clocks, temperature and other load drift over seconds and affect all candidates of a
round alike. A candidate may be a torch module, an ONNX session, an engine, or one of these in another process; every
one leaves its images in the host's memory.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import astuple
from statistics import median

from ..devices import LoadMeter
from ..errors import UsageError, choose
from ..gates import SPEED, Requirement, Verdict, doubts, judge
from ..progress import Progress
from .candidates.candidate import Candidate, Phases, Skipped
from .caveats import caveats_of, cores_are_shared, instability
from .machine.clocks import ClockMeter
from .machine.environment import capture_environment
from .machine.roofline import Ceiling, Ceilings, measured_ceilings, roofline
from .results import BenchReport, BenchRow, Method
from .scenarios import Scenario, find_scenario
from .statistics import percentile_intervals, ratio_of_medians, stability, summarise

Call = Callable[[], object]

_CEILING_EVERY = 5  # rounds: often enough to meet the same load, yet a small share of the time


def benchmark(
    candidates: Mapping[str, Call],
    *,
    baseline: str,
    batch: int = 1,
    mode: str = "latency",
    ceilings: Sequence[Ceiling] = (),
    skipped: Sequence[Skipped] = (),
    extras: Collection[str] = (),
    warmup_calls: int = 10,
    warmup_seconds: float = 0.5,
    min_rounds: int = 50,
    min_seconds: float = 10.0,
    pause_seconds: float = 0.005,
    patient: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> BenchReport:
    """Time every candidate in interleaved rounds, and compare each with the baseline.

    - ``candidates``: name -> function without arguments that makes ``batch`` images; a ``Candidate`` adds its labels,
      and may have its own batch and baseline.
    - ``mode``: a name in ``SCENARIOS``: how calls follow each other.
    - ``ceilings``: operations that show the machine's highest rates, timed in every fifth round; rows whose work is
      known report their distance from these rates.
    - ``skipped``: candidates that cannot run on this machine, and why; they are only reported.
    - ``extras``: candidates that are only timed to find the fastest. Noise in their rows makes the run unstable only if
      one of them is.
    - ``warmup_calls``, ``warmup_seconds``: every candidate is first called until both are reached; those calls are
      discarded.
    - ``min_rounds``, ``min_seconds``: rounds go on until both are reached; seconds count the rounds of all candidates
      together.
    - ``pause_seconds``: idle time before each timed call, so that the thread pools of the previous candidate stop
      spinning and free the cores.
    - ``patient``: whether rounds go on although other processes share the cores, which makes the figures unstable.
      Otherwise such a run ends after ``min_seconds``.
    - ``seed``: seed of the order within rounds and of the bootstrap.
    - ``progress``: called after each round, as progress(percent, 100).

    Raises UsageError for an unknown baseline or settings that measure nothing, ValueError when a candidate returns
    another number of images than its batch.
    """
    _check_settings(candidates, baseline, batch, min_rounds, pause_seconds)
    scenario = find_scenario(mode, max(_batch(call, batch) for call in candidates.values()))
    environment = capture_environment()
    warmed = {
        name: _warm_up(name, call, _batch(call, batch), warmup_calls, warmup_seconds, clock)
        for name, call in candidates.items()
    }
    rounds = _Rounds(candidates, ceilings, scenario, seed, lambda: sleep(pause_seconds), clock)
    meter, begin, elapsed = LoadMeter(), clock(), 0.0
    while elapsed < min_seconds or (
        rounds.done < min_rounds and (patient or not cores_are_shared(environment, meter.others()))
    ):
        rounds.measure()
        elapsed = clock() - begin
        if progress is not None:
            share = min(rounds.done / min_rounds, elapsed / min_seconds if min_seconds > 0 else 1.0, 1.0)
            progress(int(100 * share), 100)
    others, clocks = meter.others(), rounds.clocks.clocks()
    method = Method(
        rounds.done, elapsed, seed, min_rounds, min_seconds, warmup_calls, warmup_seconds,
        pause_seconds if scenario.paused else 0.0,
        calls_per_round=scenario.burst, images_per_second=scenario.figure,
    )  # fmt: skip
    limits = measured_ceilings(ceilings, rounds.ceiling_samples)
    rows = tuple(
        _row(name, call, warmed[name], rounds, _batch(call, batch), baseline, limits, seed)
        for name, call in candidates.items()
    )
    fastest = min(rows, key=lambda row: row.summary.p50_ms)
    decisive = [row for row in rows if row.name not in extras or row is fastest]
    unstable = tuple(instability(decisive, environment, others))
    caveats = tuple(caveats_of(rows, unstable, clocks, skipped, scenario))
    return BenchReport(
        baseline, batch, rows, method, environment, others, caveats,
        unstable_because=unstable, mode=scenario.name, skipped=tuple(skipped), ceilings=limits, clocks=clocks,
    )  # fmt: skip


def judge_speed(requirements: Sequence[Requirement], report: BenchReport) -> Verdict:
    """Judge requirements on ``speedup``, the largest of the run; an unstable run fails them with its reasons."""
    found = [row.speedup.value for row in report.rows if row.speedup is not None]
    return judge(requirements, {SPEED: max(found, default=None)}, untrusted=doubts(report.unstable_because))


def _check_settings(candidates: Mapping[str, Call], baseline: str, batch: int, rounds: int, pause: float) -> None:
    if baseline not in candidates:
        raise UsageError(f"no candidate is named {baseline!r}", choose(baseline, candidates))
    for name, value, least in (("batch", batch, 1), ("rounds", rounds, 1), ("pause", pause, 0)):
        if value < least:
            raise UsageError(f"{name} is {value}", f"Give {least} or more.")


def _batch(call: Call, default: int) -> int:
    return call.batch if isinstance(call, Candidate) and call.batch is not None else default


def _warm_up(name: str, call: Call, batch: int, calls: int, seconds: float, clock: Callable[[], float]) -> int:
    """Call until both limits are reached, at least once; return the number of calls.

    Raises ValueError for another number of images than the batch, since the rate would be wrong by that factor.
    """
    begin, done = clock(), 0
    while done < max(calls, 1) or clock() - begin < seconds:
        shape = getattr(call(), "shape", None)
        if shape is not None and len(shape) == 4 and shape[0] != batch:
            raise ValueError(f"{name} returned {shape[0]} images per call, but batch is {batch}")
        done += 1
    return done


class _Rounds:
    """The measured part of a run and its samples: milliseconds by candidate, seconds by ceiling."""

    def __init__(
        self,
        candidates: Mapping[str, Call],
        ceilings: Sequence[Ceiling],
        scenario: Scenario,
        seed: int,
        wait: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self.candidates, self.ceilings, self.scenario = candidates, ceilings, scenario
        self.clock, self.wait = clock, wait if scenario.paused else lambda: None
        self.order, self.done, self.clocks = random.Random(seed), 0, ClockMeter()
        self.samples: dict[str, list[float]] = {name: [] for name in candidates}
        self.phases: dict[str, list[Phases]] = {name: [] for name in candidates}
        self.ceiling_samples: dict[str, list[float]] = {ceiling.name: [] for ceiling in ceilings}
        for ceiling in ceilings:
            ceiling.run()  # warm-up

    def measure(self) -> None:
        """Give every candidate one turn, in random order."""
        for name in self.order.sample(list(self.candidates), len(self.candidates)):
            call = self.candidates[name]
            for _ in range(self.scenario.burst):
                self.wait()
                measured = call.measure() if isinstance(call, Candidate) and call.measure else self._seconds(call) * 1e3
                self.samples[name].append(measured)
            if isinstance(call, Candidate) and call.phases:
                self.phases[name].append(call.phases())
        if self.done % _CEILING_EVERY == 0:
            for ceiling in self.ceilings:
                self.wait()
                self.ceiling_samples[ceiling.name].append(self._seconds(ceiling.run))
        self.clocks.sample()
        self.done += 1

    def _seconds(self, call: Call) -> float:
        begin = self.clock()
        call()
        return self.clock() - begin


def _row(
    name: str,
    call: Call,
    warmup_calls: int,
    rounds: _Rounds,
    batch: int,
    baseline: str,
    limits: Ceilings,
    seed: int,
) -> BenchRow:
    samples = rounds.samples[name]
    summary, block = summarise(samples), rounds.scenario.block(len(samples))
    own = call if isinstance(call, Candidate) else None
    typical = summary.mean_ms if rounds.scenario.name == "offline" else summary.p50_ms
    over = (own and own.baseline) or baseline
    speedup = None if over == name else ratio_of_medians(rounds.samples[over], samples, seed=seed, block=block)
    return BenchRow(
        name=name,
        labels=own.labels() if own else {},
        warmup_calls=warmup_calls,
        samples_ms=tuple(samples),
        summary=summary,
        images_per_second=batch * 1e3 / typical,
        speedup=speedup,
        stability=stability(samples),
        batch=batch,
        intervals=percentile_intervals(samples, seed=seed, block=block),
        phases=_medians(rounds.phases[name]),
        cold_start=own.cold_start if own else None,
        memory=own.memory() if own and own.memory else None,
        roofline=roofline(own.work, limits, own.device, own.precision, summary.p50_ms, backend=own.backend)
        if own and own.work
        else None,
    )


def _medians(phases: Sequence[Phases]) -> Phases | None:
    """Return the median of each phase; None where none was measured."""
    return Phases(*map(median, zip(*map(astuple, phases), strict=True))) if phases else None
