"""Modes of the avatars, counted: which combinations of factors a generator reaches, and how often.

A *cell* is one value of a categorical factor together with one bin of any other factor: "sunglasses and green hair",
"top hat and a big grin". Continuous factors have 4 bins, circular ones 6, categorical ones a bin per value. Pairs,
because they are the finest split in which every rare value still has enough samples to count at 5,000 to 10,000
samples; and always with a categorical factor, because those make separate modes, which is what gets lost. Losing a
single rare value empties about a tenth of the cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from ..datasets.factors import FACTORS, HIDDEN, Factor, Factors

CONTINUOUS_BINS = 4
CIRCULAR_BINS = 6
_MIN_EXPECTED = 20  # samples that a cell should get: fewer than a quarter of them by bad luck has probability 2e-5
_REACHED = 0.25  # of the data's frequency; below it, what is there may as well be misread neighbours


@dataclass(frozen=True)
class ModeReport:
    """``coverage``: share of the data's cells that the samples reach, in [0, 1]. ``frequency_error``: total variation
    distance between the cell frequencies, averaged over factor pairs, in [0, 1]. ``cells``: how many were counted."""

    coverage: float
    frequency_error: float
    cells: int


def mode_coverage(real: Factors, fake: Factors) -> ModeReport:
    """Compare the cells of data and samples, both read by the same reader.

    A cell counts when its frequency in the data promises at least 20 samples among the fakes (and holds 20 reals). It
    is reached when the fakes hold at least a quarter of what it promises.
    """
    reached = counted = 0
    variation: list[float] = []
    for first, second in _pairs():
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
    """For each rare value ("glasses=sunglasses"): its rate among the samples over its true rate. 1 is right, 0 lost."""
    ratios: dict[str, float] = {}
    for factor in FACTORS:
        for value in factor.rare:
            position = factor.values.index(value)
            rate = float((fake.labels(factor.name) == position).mean())
            ratios[f"{factor.name}={value}"] = rate / factor.probabilities[position]
    return ratios


@dataclass(frozen=True)
class ModeRow:
    """One value of a categorical factor, or one bin of another: its share among the data and among the samples, both
    as the reader reads them, in [0, 1], and ``ratio`` of the second to the first, None where the data has none."""

    factor: str
    value: str
    data: float
    samples: float
    ratio: float | None


def mode_table(real: Factors, fake: Factors) -> tuple[ModeRow, ...]:
    """A row for each value or bin of every factor, in the order of ``FACTORS``."""
    rows: list[ModeRow] = []
    for factor in FACTORS:
        count = _bin_count(factor)
        true = np.bincount(_bins(real, factor), minlength=count) / len(real)
        found = np.bincount(_bins(fake, factor), minlength=count) / len(fake)
        for bin, name in enumerate(_bin_names(factor)):
            ratio = float(found[bin] / true[bin]) if true[bin] else None
            rows.append(ModeRow(factor.name, name, float(true[bin]), float(found[bin]), ratio))
    return tuple(rows)


def _pairs() -> list[tuple[Factor, Factor]]:
    """Factor pairs with a categorical member."""
    return [pair for pair in combinations(FACTORS, 2) if any(factor.kind == "categorical" for factor in pair)]


def _histogram(factors: Factors, first: Factor, second: Factor) -> NDArray[np.int64]:
    """Counts [bins of first, bins of second]; combinations in which one factor hides the other are left at zero."""
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
    """A category's own name; a range in the factor's units ([-1, 1] or turns) for a bin."""
    if factor.kind == "categorical":
        return list(factor.values)
    low, high = (0.0, 1.0) if factor.kind == "circular" else (-1.0, 1.0)
    edges = np.linspace(low, high, _bin_count(factor) + 1)
    return [f"{first:.2g} to {last:.2g}" for first, last in pairwise(edges)]


def _bins(factors: Factors, factor: Factor) -> NDArray[np.int64]:
    """Bin numbers [N] of one factor."""
    if factor.kind == "categorical":
        return factors.labels(factor.name)
    column = factors.column(factor.name).astype(np.float64)
    share = column if factor.kind == "circular" else (column + 1.0) / 2.0
    return np.clip((share * _bin_count(factor)).astype(np.int64), 0, _bin_count(factor) - 1)
