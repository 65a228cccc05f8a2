"""Percentiles of latencies, ratios of medians, and their confidence intervals.

Percentiles are linear interpolations between order statistics (Hyndman and Fan 1996, type 7; numpy's default).
Intervals are percentile intervals of a circular block bootstrap over rounds (Politis and Romano 1992). A block of
neighbouring rounds is drawn as a whole: other load slows several rounds in a row, so independent draws would make the
interval too narrow. Baseline and candidate of a round are drawn together, so load on both cancels in the ratio.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
RESAMPLES = 2000
DRIFT_LIMIT = 0.05  # the two halves of a run may differ by this share before it is called unstable
MIN_HALF = 5  # samples that a half needs before its median is compared
PERCENTILES = (50, 90, 95, 99)

_INDICES_PER_CHUNK = 2_000_000  # limits the bootstrap's memory to some tens of MB for any sample count


@dataclass(frozen=True)
class Summary:
    """Latency of one candidate in milliseconds over ``count`` timed calls."""

    count: int
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float
    std_ms: float
    min_ms: float
    max_ms: float
    p99_indicative: bool
    """True when there are too few samples to bound the 99th percentile, which is then only a hint."""


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds of its confidence interval."""

    value: float
    low: float
    high: float
    confidence: float = CONFIDENCE


@dataclass(frozen=True)
class Stability:
    """Medians of the first and the second half of a run, and whether they agree."""

    verdict: str
    """"stable", "drifting" or "too few samples"."""
    first_ms: float | None
    second_ms: float | None
    drift: float | None
    """second / first - 1."""


def needed_count(quantile: float) -> int:
    """Return how many samples are needed so that the largest exceeds the ``quantile`` with 95 % confidence.

    Wilks (1941): the largest of n independent samples lies above the q-quantile with probability 1 - q**n. With fewer
    samples the percentile has no interval. 299 for p99 at 95 %, 29 for p90.
    """
    if not 0.0 < quantile < 1.0:
        raise ValueError(f"quantile {quantile} must lie between 0 and 1")
    return math.ceil(math.log(1.0 - CONFIDENCE) / math.log(quantile))


def summarise(samples_ms: ArrayLike) -> Summary:
    """Return percentiles, mean and sample standard deviation (n - 1; 0 for one sample) of latencies in milliseconds."""
    samples = _checked(samples_ms)
    p50, p90, p95, p99 = (float(value) for value in np.percentile(samples, PERCENTILES))
    return Summary(
        count=len(samples),
        p50_ms=p50,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        mean_ms=float(samples.mean()),
        std_ms=float(samples.std(ddof=1)) if len(samples) > 1 else 0.0,
        min_ms=float(samples.min()),
        max_ms=float(samples.max()),
        p99_indicative=len(samples) < needed_count(0.99),
    )


def block_length(rounds: int) -> int:
    """Return the rounds per bootstrap block: the cube root of their number, as for a variance (Hall et al. 1995)."""
    return max(1, round(math.cbrt(rounds)))


def ratio_of_medians(
    baseline_ms: ArrayLike, candidate_ms: ArrayLike, *, seed: int = 0, block: int | None = None
) -> Interval:
    """Return median(baseline) / median(candidate), above 1 when the candidate is faster, with its bootstrap interval.

    The two lists hold one latency per round, in the order of the rounds; ValueError for lists of different length.
    ``block`` is the number of neighbouring rounds drawn together, by default :func:`block_length`; 1 is the plain
    bootstrap.
    """
    baseline, candidate = _checked(baseline_ms), _checked(candidate_ms)
    rounds = len(baseline)
    if len(candidate) != rounds:
        raise ValueError(f"{rounds} baseline samples and {len(candidate)} candidate samples cannot be paired by round")
    ratios = [
        np.median(baseline[picked], axis=1) / np.median(candidate[picked], axis=1)
        for picked in _draws(np.random.default_rng(seed), rounds, block)
    ]
    return _interval(float(np.median(baseline) / np.median(candidate)), np.concatenate(ratios))


def ratio_of_runs(before_ms: ArrayLike, after_ms: ArrayLike, *, seed: int = 0, burst: int = 1) -> Interval:
    """Return median(after) / median(before) of two runs, above 1 when the later one is slower, with its interval.

    The runs share no rounds, so each is resampled by itself. The interval covers the noise inside the runs, which is
    less than the noise between them: see :func:`widened`. Calls of one ``burst`` depend on each other and are drawn
    together.
    """
    rng, medians = np.random.default_rng(seed), []
    before, after = _checked(before_ms), _checked(after_ms)
    for run in (before, after):
        block = max(burst, block_length(len(run)))
        medians.append(np.concatenate([np.median(run[picked], axis=1) for picked in _draws(rng, len(run), block)]))
    return _interval(float(np.median(after) / np.median(before)), medians[1] / medians[0])


def widened(interval: Interval, share: float) -> Interval:
    """Return the interval of a ratio with both bounds moved outwards by a factor of 1 + ``share``, which is >= 0."""
    return Interval(interval.value, interval.low / (1.0 + share), interval.high * (1.0 + share))


def percentile_intervals(
    samples_ms: ArrayLike, *, seed: int = 0, block: int | None = None
) -> dict[str, Interval | None]:
    """Return "p50", "p90", "p95" and "p99" in milliseconds with their bootstrap intervals.

    None for a percentile with too few samples (:func:`needed_count`): no resample exceeds the largest sample, so its
    interval would end too low.
    """
    samples = _checked(samples_ms)
    drawn = [
        np.percentile(samples[picked], PERCENTILES, axis=1)
        for picked in _draws(np.random.default_rng(seed), len(samples), block)
    ]
    table = zip(PERCENTILES, np.percentile(samples, PERCENTILES), np.concatenate(drawn, axis=1), strict=True)
    return {
        f"p{percent}": _interval(float(value), resampled) if len(samples) >= needed_count(percent / 100) else None
        for percent, value, resampled in table
    }


def stability(samples_ms: ArrayLike) -> Stability:
    """Compare the medians of the first and the second half of a run; the middle sample of an odd run is left out."""
    samples = _checked(samples_ms)
    half = len(samples) // 2
    if half < MIN_HALF:
        return Stability("too few samples", None, None, None)
    first, second = float(np.median(samples[:half])), float(np.median(samples[-half:]))
    drift = second / first - 1.0
    return Stability("stable" if abs(drift) <= DRIFT_LIMIT else "drifting", first, second, drift)


def _interval(value: float, resampled: NDArray[np.float64]) -> Interval:
    """Return the percentile interval of the resampled values."""
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(resampled, [tail, 1.0 - tail])
    return Interval(value, float(low), float(high))


def _draws(rng: np.random.Generator, rounds: int, block: int | None) -> Iterator[NDArray[np.int64]]:
    """Yield the round numbers [resamples, rounds] of all resamples, in chunks that fit the memory.

    A resample is made of blocks of neighbours; the first round follows the last.
    """
    length = min(block or block_length(rounds), rounds)
    blocks, chunk = -(-rounds // length), max(1, _INDICES_PER_CHUNK // rounds)
    for done in range(0, RESAMPLES, chunk):
        starts = rng.integers(0, rounds, size=(min(chunk, RESAMPLES - done), blocks, 1))
        yield (starts + np.arange(length)).reshape(len(starts), blocks * length)[:, :rounds] % rounds


def _checked(samples_ms: ArrayLike) -> NDArray[np.float64]:
    samples: NDArray[Any] = np.asarray(samples_ms, dtype=np.float64)
    if samples.ndim != 1 or len(samples) == 0:
        raise ValueError(f"latencies must be a non-empty list, not an array of shape {samples.shape}")
    if not (np.isfinite(samples).all() and (samples > 0).all()):
        raise ValueError("latencies must be finite and positive")
    return samples
