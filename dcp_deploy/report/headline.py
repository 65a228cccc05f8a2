"""The verdict on a run in three sentences, and its large figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..gates import UNSTABLE
from . import text
from .judgement import QUALITY, RARE, Tone, change_word, features_words, quality_tone, speed_tone, unstable_because
from .run_directory import BenchRow, RunDirectory
from .tables import worst_difference


@dataclass(frozen=True)
class Card:
    """One large figure; a ``value`` of None is shown as "not measured". ``meaning`` says how to read it."""

    label: str
    value: str | None
    meaning: str = ""
    detail: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class Gate:
    """The verdict on what was required of the student, and one toned line for each requirement."""

    title: str
    tone: Tone
    lines: Sequence[tuple[Tone, str]] = ()


def gate(run: RunDirectory) -> Gate:
    """Return whether the student met its requirements, the failed ones first."""
    if run.gates is None or (run.gates.passed and not run.gates.requirements):
        return Gate("No requirements set", "")
    found = sorted(run.gates.requirements, key=lambda one: one.passed)
    failed = sum(not one.passed for one in found)
    title = f"{failed} of {len(found)} requirements NOT met" if failed else f"Requirements met: {len(found)}"
    if not run.gates.passed and not failed:
        title = "Requirements NOT met"
    lines: list[tuple[Tone, str]] = [("good" if one.passed else "bad", one.text) for one in found]
    return Gate(title, "good" if run.gates.passed and not failed else "bad", tuple(lines))


def verdict(run: RunDirectory) -> str:
    """Return a sentence each on speed, parity and quality, or that it was not measured."""
    return f"{_speed_phrase(run)} {_parity_phrase(run)} {_quality_phrase(run)}"


def _speed_phrase(run: RunDirectory) -> str:
    best = fastest_student(run)
    if best is None or best.speedup is None or run.bench is None:
        return "Speed: not measured."
    factor, alike = text.times(best.speedup.value), same_backend(run)
    likewise = f"; {text.times(alike.speedup)} with both in {alike.name}" if alike else ""
    if reasons := unstable_because(run):
        return f"Speed: {UNSTABLE} ({_first_reason(reasons)})."
    return f"The student is {factor} as fast as its teacher ({best.name} against {run.bench.baseline}{likewise})."


def _first_reason(reasons: Sequence[str]) -> str:
    """Return the first reason; the notes below the table of latencies have all."""
    more = f", and {len(reasons) - 1} more below" if len(reasons) > 1 else ""
    return f"{reasons[0]}{more}"


def _parity_phrase(run: RunDirectory) -> str:
    if run.parity is None or run.parity.passed is None:
        return "Parity of the exported file: not measured."
    if run.parity.passed:
        return "The exported file generates the same images as the network."
    return "The exported file does NOT generate the same images as the network: do not use it."


def _quality_phrase(run: RunDirectory) -> str:
    ours, theirs = run.quality("student"), run.quality("teacher")
    if ours.fid is None:
        return "Quality: not measured."
    words = f"FID {ours.fid:.2f}, its teacher's {text.plain(theirs.fid, 2) or 'not measured'}"
    if theirs.fid is not None:
        words = f"{words}: {change_word('fid', theirs.fid, ours.fid)}"
    space = features_words(ours.features)
    rare = rare_traits(run)
    lacking = f" Too rare in its images: {', '.join(rare)}." if rare else ""
    return f"{words}{f' ({space})' if space else ''}.{lacking}"


def rare_traits(run: RunDirectory) -> list[str]:
    """Return the rare traits that the student generates too rarely."""
    return [trait(name) for name, ratio in run.quality("student").rare.items() if ratio is not None and ratio < RARE]


def trait(factor: str) -> str:
    """Name a rare factor for people: ``hair_style=bald`` -> ``hair style: bald``."""
    return factor.replace("_", " ").replace("=", ": ")


def cards(run: RunDirectory) -> list[Card]:
    """Return the student's large figures."""
    return [
        _quality_card(run, "fid"),
        _quality_card(run, "mode_coverage"),
        _speed_card(run),
        _parity_card(run),
        _fewer_card(run, "macs", "fewer operations", "multiplications and additions of one image"),
        _fewer_card(run, "parameters", "fewer parameters", "stored weights"),
    ]


def _speed_card(run: RunDirectory) -> Card:
    best, meaning = fastest_student(run), "times as fast as the teacher"
    speedup = best.speedup if best else None
    if best is None or speedup is None or run.bench is None:
        return Card("speedup", None, meaning)
    if reasons := unstable_because(run):
        return Card("speedup", UNSTABLE, meaning, _first_reason(reasons), "warn")
    known = speedup.low is not None and speedup.high is not None
    bounds = f"{speedup.low:.2f} to {speedup.high:.2f} (95\u00a0%); " if known else ""
    detail = f"{bounds}{best.name} against {run.bench.baseline}"
    return Card("speedup", text.times(speedup.value), meaning, detail, speed_tone(speedup.value))


def _fewer_card(run: RunDirectory, key: str, label: str, meaning: str) -> Card:
    teacher, student = (getattr(run.run.networks.get(name), key, None) for name in ("teacher", "student"))
    factor = text.ratio(teacher, student)
    if factor is None:
        return Card(label, None, meaning)
    detail = f"{text.amount(teacher)} → {text.amount(student, teacher)}"
    return Card(label, text.times(factor), meaning, detail, speed_tone(factor))


def _parity_card(run: RunDirectory) -> Card:
    passed, meaning = run.parity.passed if run.parity else None, "the exported file generates the network's images"
    if passed is None:
        return Card("parity", None, meaning)
    return Card("parity", "passed" if passed else "FAILED", meaning, worst_difference(run), "good" if passed else "bad")


def _quality_card(run: RunDirectory, key: str) -> Card:
    scale = QUALITY[key]
    teacher, student = (getattr(run.quality(name), key) for name in ("teacher", "student"))
    space = features_words(run.quality("student").features) if key == "fid" else ""
    meaning = f"{scale.meaning}{f' {space}' if space else ''}; {scale.direction}"
    if teacher is None or student is None:
        return Card(scale.label, text.plain(student, scale.digits), meaning)
    detail = f"teacher {teacher:.{scale.digits}f}: {change_word(key, teacher, student)}"
    return Card(scale.label, text.plain(student, scale.digits), meaning, detail, quality_tone(key, teacher, student))


def fastest_student(run: RunDirectory) -> BenchRow | None:
    """Return the student's row with the lowest median, None if no student was measured against a baseline.

    Rows whose images failed the parity gate do not count.
    """
    return min(_students(run), key=lambda row: row.p50_ms, default=None)


@dataclass(frozen=True)
class SameBackend:
    """Teacher over student on one backend: what compression alone gained."""

    name: str
    speedup: float


def same_backend(run: RunDirectory) -> SameBackend | None:
    """Compare teacher and student on the student's fastest backend of those in which the teacher was timed too."""
    teachers = {row.label("backend"): row for row in run.bench_rows if row.label("model") == "teacher"}
    both = [row for row in _students(run) if row.label("backend") and row.label("backend") in teachers]
    if not both:
        return None
    student = min(both, key=lambda row: row.p50_ms)
    teacher = teachers[student.label("backend")]
    return SameBackend(student.way, teacher.p50_ms / student.p50_ms)


def _students(run: RunDirectory) -> list[BenchRow]:
    checked = run.bench.fastest.tried if run.bench and run.bench.fastest else []
    failed = {one.name for one in checked if not one.passed}
    return [
        row
        for row in run.bench_rows
        if row.label("model") == "student" and row.speedup is not None and row.name not in failed
    ]
