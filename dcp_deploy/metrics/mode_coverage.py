"""Mode coverage of the avatars: which combinations of factors a generator produces, and how often.

A *cell* is one value of a categorical factor with one bin of another factor: "sunglasses and green hair", "top hat and
a big grin". Continuous factors have 4 bins, circular ones 6, categorical ones a bin per value. Pairs are the finest
split with enough samples of every rare value at 5,000 to 10,000 samples. One factor is always categorical, because
categories make separate modes, which a generator can lose. Losing one rare value empties about a tenth of the cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from ..datasets.factors import FACTORS, HIDDEN, Factor, Factors

CONTINUOUS_BINS = 4
CIRCULAR_BINS = 6
_MIN_EXPECTED = 20  # expected samples of a cell that counts; a quarter or less by chance has probability 2e-5
_REACHED = 0.25  # share of the data's frequency; fewer samples may be misread neighbours


@dataclass(frozen=True)
class ModeReport:
    """``coverage``: share of the data's cells that the samples reach, in [0, 1]. ``frequency_error``: total variation
    distance between cell frequencies, averaged over factor pairs, in [0, 1]. ``cells``: number of cells counted."""

    coverage: float
    frequency_error: float
    cells: int


def mode_coverage(real: Factors, fake: Factors) -> ModeReport:
    """Compare the cells of real and generated images, whose factors were read by the same reader.

    A cell counts if it holds 20 real images and its frequency predicts at least 20 generated ones. It is reached if it
    holds at least a quarter of the predicted number. Raises ValueError if no cell counts.
    """
    reached = counted = 0
    variation: list[float] = []
    for first, second in combinations(FACTORS, 2):
        if "categorical" not in (first.kind, second.kind):
            continue
        true = _histogram(real, first, second)
        found = _histogram(fake, first, second)
        frequency, rate = true / len(real), found / len(fake)
        counts = (frequency * len(fake) >= _MIN_EXPECTED) & (true >= _MIN_EXPECTED)
        counted += int(counts.sum())
        reached += int((counts & (rate >= _REACHED * frequency)).sum())
        variation.append(0.5 * float(np.abs(frequency - rate).sum()))
    if counted == 0:
        raise ValueError(f"too few samples to count modes: {len(real)} real, {len(fake)} fake")
    return ModeReport(reached / counted, float(np.mean(variation)), counted)


def rare_ratios(fake: Factors) -> dict[str, float]:
    """Return, for each rare value ("glasses=sunglasses"), its generated over its true rate: 1 is right, 0 is lost."""
    return {
        f"{factor.name}={value}": float(fake.has(factor.name, value).mean())
        / factor.probabilities[factor.values.index(value)]
        for factor in FACTORS
        for value in factor.rare
    }


@dataclass(frozen=True)
class ModeRow:
    """One value of a categorical factor or one bin of another: its shares of ``data`` and ``samples``, in [0, 1], both
    read by the reader, and their ``ratio``, samples over data; None if the data does not contain it."""

    factor: str
    value: str
    data: float
    samples: float
    ratio: float | None


def mode_table(real: Factors, fake: Factors) -> tuple[ModeRow, ...]:
    """Return a row for each value or bin of every factor, in the order of ``FACTORS``."""
    rows: list[ModeRow] = []
    for factor in FACTORS:
        count = _bin_count(factor)
        true = np.bincount(_bins(real, factor), minlength=count) / len(real)
        found = np.bincount(_bins(fake, factor), minlength=count) / len(fake)
        for bin, name in enumerate(_bin_names(factor)):
            ratio = float(found[bin] / true[bin]) if true[bin] else None
            rows.append(ModeRow(factor.name, name, float(true[bin]), float(found[bin]), ratio))
    return tuple(rows)


def _histogram(factors: Factors, first: Factor, second: Factor) -> NDArray[np.int64]:
    """Count cells [bins of first, bins of second]; those in which one factor hides the other stay zero."""
    rows, columns = _bins(factors, first), _bins(factors, second)
    size = _bin_count(second)
    table = np.bincount(rows * size + columns, minlength=_bin_count(first) * size).reshape(-1, size)
    for factor, other, value in HIDDEN:
        if (first.name, second.name) == (other, factor):
            table[first.values.index(value), :] = 0
        elif (first.name, second.name) == (factor, other):
            table[:, second.values.index(value)] = 0
    return table


def _bin_count(factor: Factor) -> int:
    return {"continuous": CONTINUOUS_BINS, "circular": CIRCULAR_BINS, "categorical": len(factor.values)}[factor.kind]


def _bin_names(factor: Factor) -> list[str]:
    """Return the names of the categories, or the ranges of the bins in the factor's units ([-1, 1] or turns)."""
    if factor.kind == "categorical":
        return list(factor.values)
    low, high = (0.0, 1.0) if factor.kind == "circular" else (-1.0, 1.0)
    edges = np.linspace(low, high, _bin_count(factor) + 1)
    return [f"{first:.2g} to {last:.2g}" for first, last in pairwise(edges)]


def _bins(factors: Factors, factor: Factor) -> NDArray[np.int64]:
    """Return the bin numbers [N] of one factor."""
    if factor.kind == "categorical":
        return factors.labels(factor.name)
    column = factors.column(factor.name).astype(np.float64)
    share = column if factor.kind == "circular" else (column + 1.0) / 2.0
    return np.clip((share * _bin_count(factor)).astype(np.int64), 0, _bin_count(factor) - 1)
