"""Measure how many copies of a model a CPU server should run, and how long requests should wait for each other."""

from __future__ import annotations

import math
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ...devices import cpu_quota, usable_cores
from ..runners.onnx import onnx_runner
from ..runners.runner import Runner, classes_of, latents_of
from .triton import LONGEST_DELAY, SHORTEST_DELAY

SECONDS = 1.0  # of measurement for each split of the cores


@dataclass(frozen=True)
class Split:
    """Copies of a model that run at the same time, and their throughput together."""

    instances: int
    threads: int
    """Threads of each copy."""
    images_per_second: float
    milliseconds: float
    """Median milliseconds of one image, with all copies busy."""


@dataclass(frozen=True)
class Sizing:
    """The split with the highest throughput on this machine, and the delay that fits it."""

    cores: int
    best: Split
    tried: tuple[Split, ...]
    delay_us: int
    """Half the time of one image: a batch of two that waited so long is done no later than two single images."""


def allowed_cores() -> int:
    """Return how many cores this process may keep busy: by its affinity and the quota of its control groups."""
    cores, quota = usable_cores(), cpu_quota()
    return cores if quota is None else max(1, min(cores, math.floor(quota)))


def measure_sizing(onnx: Path) -> Sizing:
    """Try one copy with all cores, one copy per core, and powers of two between; takes about a second each."""
    cores = allowed_cores()
    divisors = sorted({threads for threads in (1, 2, 4, 8, 16, cores) if threads <= cores and cores % threads == 0})
    tried = tuple(_measure(onnx, cores // threads, threads) for threads in divisors)
    best = max(tried, key=lambda split: split.images_per_second)
    delay = min(max(round(best.milliseconds * 500), SHORTEST_DELAY), LONGEST_DELAY)
    return Sizing(cores, best, tried, delay)


def _measure(onnx: Path, instances: int, threads: int) -> Split:
    runners = [onnx_runner(onnx, threads=threads) for _ in range(instances)]
    with ThreadPoolExecutor(instances) as pool:
        list(pool.map(lambda runner: _draw_for(runner, 0.0), runners))  # the first calls allocate
        begin = time.perf_counter()
        times = [one for many in pool.map(lambda runner: _draw_for(runner, SECONDS), runners) for one in many]
        seconds = time.perf_counter() - begin
    return Split(instances, threads, round(len(times) / seconds, 2), round(statistics.median(times) * 1e3, 3))


def _draw_for(runner: Runner, seconds: float) -> list[float]:
    """Generate single images, at least two; return the seconds of each."""
    z, c = latents_of([0], runner.z_dim), classes_of([0], runner.c_dim)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 2 or time.perf_counter() < end:
        begin = time.perf_counter()
        runner(z=z, psi=0.7, c=c)
        times.append(time.perf_counter() - begin)
    return times
