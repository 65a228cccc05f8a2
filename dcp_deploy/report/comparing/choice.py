"""Which of several students to take: the Pareto front of cost against FID, and a recommendation with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..judgement import QUALITY, quality_tone
from ..text import amount, times

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
    """None if the intervals of the runs cannot be compared."""
    quality: Mapping[str, float | None]
    teacher_quality: Mapping[str, float | None]
    """That of its own teacher."""
    usable: bool
    """Whether the build is finished and its exported file is right."""
    passed: bool | None
    """Whether it meets its requirements; None without any."""

    @property
    def fid(self) -> float | None:
        """Its FID."""
        return self.quality.get("fid")

    @property
    def much_worse(self) -> str | None:
        """The first figure that is much worse than the teacher's, None if there is none."""
        tones = {key: quality_tone(key, self.teacher_quality.get(key), self.quality.get(key)) for key in QUALITY}
        return next((key for key, tone in tones.items() if tone == "bad"), None)

    @property
    def judgeable(self) -> bool:
        """Whether it has requirements, or a teacher whose FID is known, to judge it by."""
        return self.passed is not None or self.teacher_quality.get("fid") is not None

    @property
    def good_enough(self) -> bool:
        """Whether it meets its requirements; without any, whether no figure is much worse than its teacher's."""
        return self.judgeable and (self.much_worse is None if self.passed is None else self.passed)


@dataclass(frozen=True)
class Choice:
    """The recommended run and why, the Pareto front, and for each run off the front one that dominates it."""

    recommended: str | None
    reason: str
    front: tuple[str, ...]
    dominated_by: Mapping[str, str]


def recommend(candidates: Sequence[Candidate], *, same_quality: bool = True) -> Choice:
    """Recommend the cheapest run that is good enough; of those as fast within the measured interval, the best.

    ``same_quality``: whether FID and the like were measured in the same way, so that they can be weighed.
    """
    if not same_quality:
        return Choice(None, "No run is recommended: their quality was not measured in the same way.", (), {})
    known = [one for one in candidates if one.usable and one.cost is not None and one.fid is not None]
    dominated = _dominated(known)
    front = tuple(one.name for one in known if one.name not in dominated)
    fitting = [one for one in known if one.good_enough]
    beaten = _dominated(fitting)
    left = [one for one in fitting if one.name not in beaten]  # never one that is worse and slower than another
    if not left:
        return Choice(None, _none_fits(candidates, known), front, dominated)
    cheapest = min(left, key=_cost)
    best = min((one for one in left if _as_fast(one, cheapest)), key=lambda one: (_fid(one), _cost(one)))
    words = [_reason(best, cheapest, fitting, candidates)]
    if best.name in dominated:
        words.append(
            f"{dominated[best.name]} costs no more and has no higher FID, but it is not good enough otherwise."
        )
    return Choice(best.name, " ".join(words), front, dominated)


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


def _none_fits(candidates: Sequence[Candidate], known: Sequence[Candidate]) -> str:
    if not known:
        return f"No run is recommended: {_why_unknown(candidates)}."
    judgeable = [one for one in known if one.judgeable]
    if not judgeable:
        return "No run is recommended: the teacher's FID was not measured, so --require must say what is good enough."
    nearest = min(judgeable, key=_fid)
    words = f"The best is {nearest.name} with FID {_fid(nearest):.2f}."
    if nearest.passed is not None:
        return f"No run is recommended: none meets its requirements. {words}"
    label = QUALITY[nearest.much_worse or "fid"].label
    return (
        f"No run is recommended: every student is much worse than its teacher. {words} "
        f"Its {label} is much worse than the teacher's."
    )


def _why_unknown(candidates: Sequence[Candidate]) -> str:
    usable = [one for one in candidates if one.usable]
    if not usable:
        return "no build is finished with an exported file that generates the same images as the network"
    if all(one.fid is None for one in usable):
        return "FID was not measured"
    if all(one.cost is None for one in usable):
        return "neither latency nor MACs were measured"
    return "no finished run has both FID and cost"


def _reason(best: Candidate, cheapest: Candidate, fitting: Sequence[Candidate], candidates: Sequence[Candidate]) -> str:
    words = f"{best.name}: FID {_fid(best):.2f}, {_speed(best)}."
    enough = _enough(fitting)
    if len(fitting) == 1:
        known = all(one.usable and one.cost is not None and one.fid is not None for one in candidates)
        return (
            f"{words} It is the only one of {len(candidates)} runs that {'' if known else 'is measured and '}{enough}."
        )
    if best is not cheapest:
        return f"{words} It is as fast as {cheapest.name} within the measured intervals, and its FID is lower."
    words = f"{words} Of the {len(fitting)} runs that {enough}, it costs least."
    same = [one.name for one in fitting if one is not best and (_cost(one), _fid(one)) == (_cost(best), _fid(best))]
    return f"{words[:-1]}, like {', '.join(same)} with the same FID." if same else words


def _speed(one: Candidate) -> str:
    if one.speedup is None:
        return f"{amount(one.cost)} MACs per image"
    return f"{times(one.speedup)} as fast as the teacher" + (", which is slower" if one.speedup < 1 else "")


def _enough(fitting: Sequence[Candidate]) -> str:
    """Return what makes these runs good enough, in words that follow "the run that" or "the runs that"."""
    judged = {one.passed is not None for one in fitting}
    words = {True: "meet their requirements", False: "are not much worse than their teacher in any measured figure"}
    if len(fitting) == 1:
        words = {True: "meets its requirements", False: "is not much worse than its teacher in any measured figure"}
    return " or ".join(words[kind] for kind in (True, False) if kind in judged)


def _cost(one: Candidate) -> float:
    assert one.cost is not None
    return one.cost


def _fid(one: Candidate) -> float:
    assert one.fid is not None
    return one.fid
