"""The factors of the ``avatars`` portraits: what varies, how often, and how an index becomes factor values.

Every factor is drawn independently from a uniform number of its own, so the distribution of the data is known exactly.
Coverage and rates of rare modes can therefore be measured (:mod:`dcp_deploy.metrics.mode_coverage`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Kind = Literal["continuous", "circular", "categorical"]


@dataclass(frozen=True)
class Factor:
    """One independent property of a portrait.

    Only categorical factors have ``values`` and ``probabilities``. ``rare`` names the values that are rare on purpose:
    pruning loses rare modes first.
    """

    name: str
    kind: Kind
    values: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    rare: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Numbers of this factor in :func:`encode`: 1, 2 (sine, cosine) or one per value."""
        return {"continuous": 1, "circular": 2, "categorical": len(self.values)}[self.kind]


FACTORS: tuple[Factor, ...] = (
    Factor("skin", "continuous"),
    Factor("hair_hue", "circular"),
    Factor("hair_lightness", "continuous"),
    Factor("hair_style", "categorical", ("bald", "short", "bob", "long"), (0.05, 0.35, 0.30, 0.30), ("bald",)),
    Factor("eye_colour", "continuous"),
    Factor("smile", "continuous"),
    Factor("glasses", "categorical", ("none", "round", "sunglasses"), (0.75, 0.20, 0.05), ("sunglasses",)),
    Factor("hat", "categorical", ("none", "cap", "top_hat"), (0.85, 0.10, 0.05), ("top_hat",)),
    Factor("beard", "categorical", ("none", "full"), (0.95, 0.05), ("full",)),
    Factor("head_x", "continuous"),
    Factor("head_y", "continuous"),
    Factor("head_size", "continuous"),
    Factor("background_hue", "circular"),
    Factor("background_lightness", "continuous"),
    Factor("shirt_hue", "circular"),
)
NUM_UNIFORMS: int = len(FACTORS)
ENCODED_WIDTH: int = sum(factor.width for factor in FACTORS)
FACTOR_INDEX: dict[str, int] = {factor.name: position for position, factor in enumerate(FACTORS)}

# (factor, other factor, value): the picture does not show the factor if the other factor has that value.
HIDDEN = (
    ("eye_colour", "glasses", "sunglasses"),
    ("hair_hue", "hair_style", "bald"),
    ("hair_lightness", "hair_style", "bald"),
)


@dataclass(frozen=True)
class Factors:
    """Factor values of N portraits, one column of ``table`` (float32 [N, len(FACTORS)]) per factor.

    Continuous columns are in [-1, 1], circular ones in turns [0, 1), categorical ones hold the index into ``values``.
    """

    table: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.table.ndim != 2 or self.table.shape[1] != len(FACTORS):
            raise ValueError(f"factors need a table [N, {len(FACTORS)}], got {self.table.shape}")

    def __len__(self) -> int:
        return int(self.table.shape[0])

    def __getitem__(self, rows: Any) -> Factors:
        """Select rows by slice, boolean mask or index array."""
        return Factors(np.atleast_2d(self.table[rows]))

    def column(self, name: str) -> NDArray[np.float32]:
        """Values [N] of one factor by name."""
        return self.table[:, FACTOR_INDEX[name]]

    def labels(self, name: str) -> NDArray[np.int64]:
        """Value indices [N] of a categorical factor."""
        return self.column(name).astype(np.int64)

    def has(self, name: str, value: str) -> NDArray[np.bool_]:
        """Whether [N] a categorical factor has this value."""
        return np.asarray(self.labels(name) == FACTORS[FACTOR_INDEX[name]].values.index(value))


def factors_from_uniforms(u: ArrayLike) -> Factors:
    """Map uniforms [N, NUM_UNIFORMS] in [0, 1) to factors.

    Continuous factors are linear in u. Hues lie on the circle, so that 0 and 1 agree. Categorical factors follow the
    cumulative probabilities.
    """
    uniforms = np.asarray(u, dtype=np.float64)
    if uniforms.ndim != 2 or uniforms.shape[1] != NUM_UNIFORMS:
        raise ValueError(f"factors need uniforms [N, {NUM_UNIFORMS}], got {uniforms.shape}")
    table = np.empty(uniforms.shape, dtype=np.float32)
    for position, factor in enumerate(FACTORS):
        column = uniforms[:, position]
        if factor.kind == "continuous":
            table[:, position] = 2.0 * column - 1.0
        elif factor.kind == "circular":
            turns = np.mod(column, 1.0).astype(np.float32)
            table[:, position] = np.where(turns < 1.0, turns, 0.0)  # float32 may round up to a full turn
        else:
            thresholds = np.cumsum(factor.probabilities)[:-1]
            table[:, position] = np.searchsorted(thresholds, column, side="right")
    return Factors(table)


def sample_factors(indices: ArrayLike, seed: int = 0) -> Factors:
    """Return the factors of the portraits with these indices (integers >= 0), independent of the batch.

    The numbers are counter-based: SplitMix64 of seed, index and factor.
    """
    counters = np.asarray(indices, dtype=np.int64).reshape(-1).astype(np.uint64)
    columns = np.arange(NUM_UNIFORMS, dtype=np.uint64)
    key = _splitmix64(np.full(1, seed, dtype=np.int64).astype(np.uint64))
    rows = _splitmix64(key ^ counters)
    bits = _splitmix64(rows[:, None] + _GOLDEN * (columns + np.uint64(1)))
    return factors_from_uniforms((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def encode(factors: Factors) -> NDArray[np.float32]:
    """Encode factors for a network, [N, ENCODED_WIDTH]: continuous in [-1, 1], circular (sin, cos), one-hot values."""
    parts: list[NDArray[np.float32]] = []
    for position, factor in enumerate(FACTORS):
        column = factors.table[:, position]
        if factor.kind == "continuous":
            parts.append(column[:, None])
        elif factor.kind == "circular":
            angle = 2.0 * np.pi * column
            parts.append(np.stack([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32))
        else:
            parts.append(np.eye(len(factor.values), dtype=np.float32)[column.astype(np.int64)])
    return np.concatenate(parts, axis=1).astype(np.float32, copy=False)


def decode(encoded: NDArray[np.floating[Any]]) -> Factors:
    """Invert ``encode``. Network outputs [N, ENCODED_WIDTH] are clipped, and the largest logit is the category."""
    table = np.empty((encoded.shape[0], len(FACTORS)), dtype=np.float32)
    start = 0
    for position, factor in enumerate(FACTORS):
        part = encoded[:, start : start + factor.width]
        start += factor.width
        if factor.kind == "continuous":
            table[:, position] = np.clip(part[:, 0], -1.0, 1.0)
        elif factor.kind == "circular":
            turns = np.mod(np.arctan2(part[:, 0], part[:, 1]) / (2.0 * np.pi), 1.0).astype(np.float32)
            table[:, position] = np.where(turns < 1.0, turns, 0.0)
        else:
            table[:, position] = np.argmax(part, axis=1)
    return Factors(table)


def visible(factors: Factors, name: str) -> NDArray[np.bool_]:
    """Whether [N] each picture shows the factor ``name``."""
    shown = np.ones(len(factors), dtype=np.bool_)
    for hidden, by, value in HIDDEN:
        if hidden == name:
            shown &= ~factors.has(by, value)
    return shown


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _splitmix64(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return one output of SplitMix64 per state (Steele et al. 2014, Fast splittable pseudorandom generators)."""
    z = state + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
