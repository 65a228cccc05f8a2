"""Rare traits as bars: how often student and teacher draw them, over how often the data do."""

from __future__ import annotations

from dataclasses import dataclass

from .headline import trait
from .judgement import Tone, rarity
from .run_directory import RunDirectory

FULL = 2.0
"""Frequency over the true one at which a bar is full; its middle is the true frequency."""


@dataclass(frozen=True)
class Bar:
    """One model's frequency of a trait over the true one; ``percent`` of the bar's full width."""

    model: str
    value: str
    percent: float
    word: str
    tone: Tone


def rare_bars(run: RunDirectory) -> dict[str, list[Bar]]:
    """Return the student's and the teacher's bar of each rare trait."""
    found = {model: run.quality(model).rare for model in ("student", "teacher")}
    traits: dict[str, list[Bar]] = {}
    for factor in dict.fromkeys(factor for rare in found.values() for factor in rare):
        bars = [_bar(model, ratio) for model, rare in found.items() if (ratio := rare.get(factor)) is not None]
        if bars:
            traits[trait(factor)] = bars
    return traits


def _bar(model: str, ratio: float) -> Bar:
    verdict = rarity(ratio)
    return Bar(model, f"{ratio:.2f}", 100 * min(max(ratio, 0.0) / FULL, 1.0), str(verdict), verdict.tone)
