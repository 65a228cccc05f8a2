"""What is good and what is bad: the direction of every figure, and the tone in which the page shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .run_directory import RunDirectory

Tone = Literal["good", "warn", "bad", ""]
"""Of a figure: as wanted, worse but usable, not usable, or neither."""

RARE = 0.7
"""Frequency over the true one, below which a trait counts as too rare; above its inverse, as too frequent."""
LOST = 0.1
"""The same, below which it counts as lost."""

_MUCH_WORSE = 3.0  # FID and the like: this many times the teacher's
_MUCH_LESS = 0.8  # recall and the like: this share of the teacher's


class Toned(str):
    """A text with its tone."""

    tone: Tone

    def __new__(cls, text: str, tone: Tone) -> Toned:
        """Make the text."""
        self = super().__new__(cls, text)
        self.tone = tone
        return self


@dataclass(frozen=True)
class Scale:
    """How a figure of quality is called, written and read."""

    label: str
    digits: int
    more_is_better: bool
    meaning: str = ""

    @property
    def direction(self) -> str:
        """Whether more or less of it is better, in words."""
        return "higher is better" if self.more_is_better else "lower is better"


QUALITY = {
    "fid": Scale("FID", 2, False, "distance to the real images"),
    "precision": Scale("precision", 3, True),
    "recall": Scale("recall", 3, True),
    "density": Scale("density", 3, True),
    "coverage": Scale("coverage", 3, True),
    "mode_coverage": Scale("mode coverage", 3, True, "share of the data's modes that still appear"),
    "frequency_error": Scale("frequency error of factors", 3, False),
}
"""By field of ``Quality``."""


def quality_tone(key: str, teacher: float | None, student: float | None) -> Tone:
    """Compare a student's figure with its teacher's; without both, there is nothing to say."""
    if teacher is None or student is None:
        return ""
    more = QUALITY[key].more_is_better
    if student == teacher or (student > teacher) == more:
        return "good"
    much = student < _MUCH_LESS * teacher if more else student > _MUCH_WORSE * teacher
    return "bad" if much else "warn"


def change_word(key: str, teacher: float, student: float) -> str:
    """Return "same", "better", "worse" or "much worse"."""
    if student == teacher:
        return "same"
    return {"good": "better", "warn": "worse", "bad": "much worse"}[quality_tone(key, teacher, student)]


def speed_tone(factor: float) -> Tone:
    """Return "bad" for a student that is slower than its teacher."""
    return "good" if factor >= 1 else "bad"


def rarity(ratio: float) -> Toned:
    """Judge how often a trait appears, over how often it should."""
    if ratio < LOST:
        return Toned("lost", "bad")
    if ratio < RARE:
        return Toned("too rare", "bad")
    return Toned("about right", "good") if ratio <= 1 / RARE else Toned("too frequent", "warn")


def unstable_because(run: RunDirectory) -> list[str]:
    """Return the reasons not to trust the measured speed; none for a good run, and without a benchmark."""
    if run.bench is None:
        return []
    if run.bench.unstable_because is not None:
        return run.bench.unstable_because
    drifting = [row.name for row in run.bench_rows if row.stability.verdict == "drifting"]
    return [f"the second half of the run differs from the first for {', '.join(drifting)}"] if drifting else []


def features_words(features: str | None) -> str:
    """Name the feature space of FID and the like; empty if unknown."""
    if features == "avatars":
        return "in the demo's own features, not Inception's"
    return f"in the features of {features}" if features else ""
