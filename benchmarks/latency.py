"""The latency harness: interleaved rounds, raw samples kept.

    warm up every candidate (a number of calls and a time, both)
    repeat until enough rounds and enough seconds:
        shuffle the candidates
        for each: wait a moment, call it once, keep the time
        now and then: time the machine's ceilings, look at its clocks

Comparing within a round is what makes the ratios believable: clocks, temperature and other load drift over seconds,
and all candidates of a round meet the same of it. What a candidate is (a torch module, an ONNX session, an engine, one
of these in another process) does not matter here: it leaves its images in the host's memory.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from ..errors import UsageError
from ..progress import Progress
from .candidates.candidate import Candidate, Phases, Skipped
from .caveats import caveats_of
from .machine.clocks import ClockMeter
from .machine.environment import LoadMeter, capture_environment
from .machine.roofline import Ceiling, Ceilings, measured_ceilings, roofline
from .results import BenchReport, BenchRow, Method
from .scenarios import Scenario, find_scenario
from .statistics import Interval, percentile_intervals, ratio_of_medians, stability, summarise

Call = Callable[[], object]
Samples = dict[str, list[float]]

_CEILING_EVERY = 5  # rounds: often enough to meet the same load, and a small share of the time


def benchmark(
    candidates: Mapping[str, Call],
    *,
    baseline: str,
    batch: int = 1,
    mode: str = "latency",
    ceilings: Sequence[Ceiling] = (),
    skipped: Sequence[Skipped] = (),
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
    """Time every candidate, in turns, and compare each with the baseline.

    candidates: name -> function without arguments that makes ``batch`` images; a ``Candidate`` adds its labels, and may
        have a batch and a baseline of its own.
    mode: of ``MODES``: how calls follow each other.
    ceilings: what the machine can do at most, timed in every fifth round; rows whose work is known say how far from
        that they are.
    skipped: candidates that cannot run here, and why; they are only reported.
    warmup_calls, warmup_seconds: every candidate is first called until both are reached; those calls are discarded.
    min_rounds, min_seconds: rounds go on until both are reached; seconds count the rounds of all candidates together.
    pause_seconds: idle time before each timed call, for thread pools to go to sleep after their last task: one that
        still spins takes the cores from the candidate that follows.
    seed: of the order within rounds and of the bootstrap.
    progress: called after each round, as progress(percent, 100).

    Raises UsageError for an unknown baseline or settings that measure nothing, ValueError when a candidate returns an
    image batch of another size than its batch.
    """
    _check_settings(candidates, baseline, batch, min_rounds, pause_seconds)
    way = find_scenario(mode, max(_batch(call, batch) for call in candidates.values()))
    environment = capture_environment()
    warmed = {
        name: _warm_up(name, call, _batch(call, batch), warmup_calls, warmup_seconds, clock)
        for name, call in candidates.items()
    }
    rounds = _Rounds(candidates, ceilings, way, seed, pause_seconds if way.paused else 0.0, clock, sleep)
    meter, begin, elapsed = LoadMeter(), clock(), 0.0
    while rounds.done < min_rounds or elapsed < min_seconds:
        rounds.measure()
        elapsed = clock() - begin
        if progress is not None:
            share = min(rounds.done / min_rounds, elapsed / min_seconds if min_seconds > 0 else 1.0, 1.0)
            progress(int(100 * share), 100)
    others, clocks = meter.others(), rounds.clocks.clocks()
    method = Method(
        rounds.done, elapsed, seed, min_rounds, min_seconds, warmup_calls, warmup_seconds, rounds.pause,
        calls_per_round=way.burst, images_per_second=way.figure,
    )  # fmt: skip
    limits = measured_ceilings(ceilings, rounds.ceiling_samples)
    rows = tuple(
        _row(name, call, warmed[name], rounds, _batch(call, batch), baseline, limits, seed)
        for name, call in candidates.items()
    )
    return BenchReport(
        baseline, batch, rows, method, environment, others, caveats_of(rows, environment, others, clocks, skipped, way),
        mode=way.name, skipped=tuple(skipped), ceilings=limits, clocks=clocks,
    )  # fmt: skip


def _check_settings(
    candidates: Mapping[str, Call], baseline: str, batch: int, min_rounds: int, pause_seconds: float
) -> None:
    if baseline not in candidates:
        known = ", ".join(candidates) or "none"
        raise UsageError(f"no candidate is named {baseline!r}", f"The baseline must be one of: {known}.")
    for name, value, least in (("batch", batch, 1), ("rounds", min_rounds, 1), ("pause", pause_seconds, 0)):
        if value < least:
            raise UsageError(f"{name} is {value}", f"Give {least} or more.")


def _batch(call: Call, default: int) -> int:
    return call.batch if isinstance(call, Candidate) and call.batch is not None else default


def _warm_up(name: str, call: Call, batch: int, calls: int, seconds: float, clock: Callable[[], float]) -> int:
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


class _Rounds:
    """The measured part of a run, and what it has measured so far: milliseconds by candidate, seconds by ceiling."""

    def __init__(
        self,
        candidates: Mapping[str, Call],
        ceilings: Sequence[Ceiling],
        mode: Scenario,
        seed: int,
        pause: float,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self.candidates, self.ceilings, self.mode, self.pause = candidates, ceilings, mode, pause
        self.clock, self.sleep = clock, sleep
        self.order, self.done, self.clocks = random.Random(seed), 0, ClockMeter()
        self.samples: Samples = {name: [] for name in candidates}
        self.phases: dict[str, list[Phases]] = {name: [] for name in candidates}
        self.ceiling_samples: Samples = {ceiling.name: [] for ceiling in ceilings}
        for ceiling in ceilings:
            ceiling.run()  # warm

    def measure(self) -> None:
        """One turn of every candidate, in an order of its own."""
        for name in self.order.sample(list(self.candidates), len(self.candidates)):
            call = self.candidates[name]
            for _ in range(self.mode.burst):
                if self.mode.paused:
                    self.sleep(self.pause)
                self.samples[name].append(self._milliseconds(call))
            if isinstance(call, Candidate) and call.phases is not None:
                self.phases[name].append(call.phases())
        if self.done % _CEILING_EVERY == 0:
            for ceiling in self.ceilings:
                if self.mode.paused:
                    self.sleep(self.pause)
                begin = self.clock()
                ceiling.run()
                self.ceiling_samples[ceiling.name].append(self.clock() - begin)
        self.clocks.look()
        self.done += 1

    def _milliseconds(self, call: Call) -> float:
        """A candidate in another process reads its own clock."""
        if isinstance(call, Candidate) and call.measure is not None:
            return call.measure()
        begin = self.clock()
        call()
        return (self.clock() - begin) * 1e3


def _speedup(name: str, call: Call, rounds: _Rounds, baseline: str, seed: int) -> Interval | None:
    """Over the candidate's own baseline, or that of the run."""
    over = (call.baseline if isinstance(call, Candidate) else None) or baseline
    if over == name:
        return None
    ours, block = rounds.samples[name], rounds.mode.block(len(rounds.samples[name]))
    return ratio_of_medians(rounds.samples[over], ours, seed=seed, block=block)


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
    summary = summarise(samples)
    own = call if isinstance(call, Candidate) else None
    typical = summary.mean_ms if rounds.mode.name == "offline" else summary.p50_ms
    return BenchRow(
        name=name,
        labels=own.labels() if own else {},
        warmup_calls=warmup_calls,
        samples_ms=tuple(samples),
        summary=summary,
        images_per_second=batch * 1e3 / typical,
        speedup=_speedup(name, call, rounds, baseline, seed),
        stability=stability(samples),
        batch=batch,
        intervals=percentile_intervals(samples, seed=seed, block=rounds.mode.block(len(samples))),
        phases=_medians(rounds.phases[name]),
        cold_start=own.cold_start if own else None,
        memory=own.memory() if own and own.memory else None,
        roofline=roofline(own.work, limits, own.device, own.precision, summary.p50_ms, backend=own.backend)
        if own and own.work
        else None,
    )


def _medians(phases: Sequence[Phases]) -> Phases | None:
    """Of each phase by itself; None where none could be measured."""
    if not phases:
        return None
    names = ("copy_in_ms", "compute_ms", "copy_out_ms", "enqueue_ms")
    return Phases(*(median(getattr(one, name) for one in phases) for name in names))
