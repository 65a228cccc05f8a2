"""Which of several students to take: the Pareto front of cost against FID, and a recommendation with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..judgement import QUALITY, quality_tone
from ..text import times
from .limits import Limits

Cost = Literal["latency_ms", "macs"]


@dataclass(frozen=True)
class Candidate:
    """What the choice needs to know of one run."""

    name: str
    cost: float | None
    """Latency in milliseconds or MACs per image."""
    speedup: float | None
    """Times as fast as the teacher; None if MACs are the cost."""
    speedup_bounds: tuple[float, float] | None
    quality: Mapping[str, float | None]
    usable: bool
    """Whether the build is finished and its exported file is right."""
    passed: bool | None
    """Whether it meets its requirements; None without any."""

    @property
    def fid(self) -> float | None:
        """Its FID."""
        return self.quality.get("fid")


@dataclass(frozen=True)
class Choice:
    """The recommended run and why; for each run that is not on the Pareto front, one that dominates it."""

    recommended: str | None
    reason: str
    dominated_by: Mapping[str, str]


def recommend(candidates: Sequence[Candidate], limits: Limits, *, judged: bool) -> Choice:
    """Recommend the cheapest run that is good enough; of those as fast within the measured interval, the best.

    With requirements (``judged``), good enough means that they are met. Otherwise no figure may be much worse than the
    teacher's (``report.judgement``).
    """
    if not limits.same_quality:
        return Choice(None, "No run is recommended: their quality was not measured in the same way.", {})
    known = [one for one in candidates if one.usable and one.cost is not None and one.fid is not None]
    dominated = _dominated(known)
    if not known:
        return Choice(None, "No run is recommended: none is finished with FID and cost measured.", dominated)
    fitting = [one for one in known if (one.passed is True if judged else _much_worse(one, limits) is None)]
    if not fitting:
        return Choice(None, _none_fits(known, limits, judged), dominated)
    cheapest = min(fitting, key=_cost)
    best = min((one for one in fitting if _as_fast(one, cheapest)), key=lambda one: (_fid(one), _cost(one)))
    return Choice(best.name, _reason(best, cheapest, fitting, known, judged), dominated)


def _dominated(candidates: Sequence[Candidate]) -> dict[str, str]:
    """Return, for each run off the Pareto front, a run that costs at most as much and has at most its FID."""
    found = {}
    for one in candidates:
        better = [
            other
            for other in candidates
            if (_cost(other), _fid(other)) != (_cost(one), _fid(one))
            and _cost(other) <= _cost(one)
            and _fid(other) <= _fid(one)
        ]
        if better:
            found[one.name] = min(better, key=lambda other: (_fid(other), _cost(other))).name
    return found


def _as_fast(one: Candidate, cheapest: Candidate) -> bool:
    """Whether a run costs as little as the cheapest, within the intervals of both speedups."""
    if one.speedup_bounds is None or cheapest.speedup_bounds is None:
        return _cost(one) == _cost(cheapest)
    return one.speedup_bounds[1] >= cheapest.speedup_bounds[0]


def _much_worse(one: Candidate, limits: Limits) -> str | None:
    """Return the first figure that is much worse than the teacher's, None if there is none."""
    teacher = limits.teacher_quality
    return next(
        (key for key in QUALITY if quality_tone(key, getattr(teacher, key), one.quality.get(key)) == "bad"), None
    )


def _none_fits(known: Sequence[Candidate], limits: Limits, judged: bool) -> str:
    nearest = min(known, key=_fid)
    words = f"The best is {nearest.name} with FID {_fid(nearest):.2f}."
    if judged:
        return f"No run is recommended: none meets its requirements. {words}"
    key = _much_worse(nearest, limits) or "fid"
    return (
        f"No run is recommended: every student is much worse than its teacher. {words} "
        f"Its {QUALITY[key].label} is much worse than the teacher's."
    )


def _reason(
    best: Candidate, cheapest: Candidate, fitting: Sequence[Candidate], known: Sequence[Candidate], judged: bool
) -> str:
    speed = f"{times(best.speedup)} as fast as the teacher" if best.speedup is not None else "with the fewest MACs"
    words = f"{best.name}: FID {_fid(best):.2f}, {speed}."
    if len(fitting) == 1:
        alone = "meets its requirements" if judged else "is not much worse than its teacher in any figure"
        return f"{words} It is the only one of {len(known)} runs that {alone}."
    if best is not cheapest:
        return f"{words} It is as fast as {cheapest.name} within the measured intervals, and its FID is lower."
    enough = "meet their requirements" if judged else "are not much worse than their teacher in any figure"
    return f"{words} Of the {len(fitting)} runs that {enough}, it costs least."


def _cost(one: Candidate) -> float:
    assert one.cost is not None
    return one.cost


def _fid(one: Candidate) -> float:
    assert one.fid is not None
    return one.fid
