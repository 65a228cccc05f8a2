"""Requirements on measured figures, such as "fid<2" or "recall>=0.95*teacher", and the verdict on them."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from .errors import QualityError, UsageError, choose

NOTHING = "none"
"""Stands for no requirements, where there would be some by default."""
QUALITY = ("fid", "kid", "precision", "recall", "density", "coverage", "mode_coverage", "frequency_error")
"""Figures of a generator that requirements may name."""
LATENTS = ("edit_correlation", "edit_slope", "teacher_w_l1", "mixed_l1", "inverted_mse")
"""Figures of how well the teacher's latents work in its student; the teacher itself has none."""
SPEED = "speedup"
UNSTABLE = "unstable, measure again"
"""Stands where the speed-up of an unstable benchmark would stand."""
_OPERATORS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
_WORDS = {"<=": "at most", ">=": "at least", "<": "below", ">": "above"}
_LARGEST = 1e100  # of a limit: times a teacher's figure, it is still a number
_FORM = re.compile(
    r"\s*(?P<metric>[a-z][a-z0-9_]*)\s*(?P<operator><=|>=|<|>)\s*(?P<limit>[^*]+?)\s*(\*\s*(?P<of>teacher)\s*)?"
)


@dataclass(frozen=True)
class Requirement:
    """``metric`` compared by ``operator`` with ``limit``, or with ``limit`` times the teacher's figure."""

    text: str
    metric: str
    operator: str
    limit: float
    of_teacher: bool


@dataclass(frozen=True)
class Outcome:
    """One requirement and what was measured. ``value`` and ``limit`` are None if not measured or not finite."""

    requirement: str
    metric: str
    value: float | None
    limit: float | None
    passed: bool
    text: str
    """The outcome as a sentence."""


@dataclass(frozen=True)
class Verdict:
    """All requirements of a run. Without any, it passed."""

    passed: bool
    requirements: tuple[Outcome, ...]

    def raise_for_failure(self) -> None:
        """Raise QualityError with the sentence of each requirement that failed."""
        failed = [one.text for one in self.requirements if not one.passed]
        if failed:
            raise QualityError(
                f"requirements not met: {'; '.join(failed)}", "Change what limits them, or change --require."
            )


def parse_requirements(texts: Sequence[str], known: Collection[str], *, teacher: bool = True) -> list[Requirement]:
    """Parse "fid<2" and "recall>=0.95*teacher"; "none" alone gives an empty list.

    ``known``: the metrics that are measured. ``teacher``: whether the teacher is measured too. Raises UsageError for
    another form, an unknown metric, a limit that is not a number, and a limit of the teacher where there is none.
    """
    if [text.strip() for text in texts] == [NOTHING]:
        return []
    return [_parse(text, known, teacher) for text in texts]


def _parse(text: str, known: Collection[str], teacher: bool) -> Requirement:
    form = _FORM.fullmatch(text)
    if text.strip() == NOTHING:
        raise UsageError(
            f"--require {NOTHING} stands beside others", f"Give --require {NOTHING} alone, or leave it out."
        )
    if form is None:
        raise UsageError(
            f"--require {text!r} is not a comparison", 'Write for example "fid<2" or "recall>=0.95*teacher".'
        )
    if form["metric"] not in known:
        raise UsageError(f"--require {text!r}: {form['metric']} is not measured here", choose(form["metric"], known))
    try:
        limit = 1.0 if form["limit"] == "teacher" and form["of"] is None else float(form["limit"])
    except ValueError:
        limit = math.nan
    if not math.isfinite(limit):
        raise UsageError(f"--require {text!r}: {form['limit']!r} is not a finite number", "Write for example fid<2.")
    if abs(limit) > _LARGEST:
        raise UsageError(f"--require {text!r}: {form['limit']} is too large", f"Give at most {_LARGEST:g}.")
    of_teacher = form["of"] is not None or form["limit"] == "teacher"
    if of_teacher and (not teacher or form["metric"] in (SPEED, *LATENTS)):
        raise UsageError(f"--require {text!r}: the teacher's figure is not measured here", "Give a number as limit.")
    return Requirement(text, form["metric"], form["operator"], limit, of_teacher)


def judge(
    requirements: Sequence[Requirement],
    values: Mapping[str, float | None],
    teacher: Mapping[str, float | None] | None = None,
    *,
    untrusted: Mapping[str, str] | None = None,
) -> Verdict:
    """Compare measured figures with the requirements.

    A figure that was not measured, is not finite, or is ``untrusted`` (metric: the reason), fails its requirement.
    """
    outcomes = tuple(_judge(one, values, teacher or {}, (untrusted or {}).get(one.metric)) for one in requirements)
    return Verdict(all(one.passed for one in outcomes), outcomes)


def doubts(unstable_because: Sequence[str]) -> dict[str, str]:
    """Return what :func:`judge` takes as ``untrusted`` for a benchmark with these reasons against its figures."""
    return {SPEED: f"the machine was not quiet ({'; '.join(unstable_because)})"} if unstable_because else {}


def _judge(
    one: Requirement, values: Mapping[str, float | None], teacher: Mapping[str, float | None], doubt: str | None
) -> Outcome:
    value = _finite(values.get(one.metric))
    of_teacher = _finite(teacher.get(one.metric)) if one.of_teacher else 1.0
    limit = None if of_teacher is None else one.limit * of_teacher
    if value is None or limit is None:
        whose = f"the teacher's {one.metric}" if value is not None else one.metric
        return Outcome(one.text, one.metric, value, limit, False, f"{whose} was not measured ({one.text} is required)")
    passed = bool(_OPERATORS[one.operator](value, limit))
    words = f"{one.metric} {value:.4g}, required {_WORDS[one.operator]} {limit:.4g}"
    if one.of_teacher:
        words += f" ({one.limit:g} x the teacher's {of_teacher:.4g})"
    if doubt is not None:
        return Outcome(one.text, one.metric, value, limit, False, f"{words}, but it cannot be trusted: {doubt}")
    if not passed:
        words += f", missed by {abs(value - limit):.3g}" if value != limit else ", and it is equal"
    return Outcome(one.text, one.metric, value, limit, passed, words)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
