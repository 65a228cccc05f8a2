"""The verdict on a run in three sentences, and its large figures."""

from __future__ import annotations

from dataclasses import dataclass

from . import text
from .run_directory import BenchRow, RunDirectory
from .tables import worst_difference


@dataclass(frozen=True)
class Card:
    """One large figure; a ``value`` of None is shown as "not measured". ``tone``: "good", "bad" or ""."""

    label: str
    value: str | None
    detail: str = ""
    tone: str = ""


def verdict(run: RunDirectory) -> str:
    """Return a sentence each on speed, parity and quality, or that it was not measured."""
    return f"{_speed_phrase(run)} {_parity_phrase(run)} {_quality_phrase(run)}"


def _speed_phrase(run: RunDirectory) -> str:
    best = fastest_student(run)
    if best is None or best.speedup is None or run.bench is None:
        return "Speed: not measured."
    factor, same = text.times(best.speedup.value), text.times(same_backend_speedup(run, best))
    likewise = f"; {same} with both on that backend" if same else ""
    if reasons := unstable_because(run):
        return f"Speed: {text.UNSTABLE} ({'; '.join(reasons)})."
    return f"The student is {factor} as fast as its teacher ({best.name} against {run.bench.baseline}{likewise})."


def unstable_because(run: RunDirectory) -> list[str]:
    """Return the reasons not to trust the measured speed; none for a good run, and without a benchmark."""
    if run.bench is None or run.bench.unstable_because:
        return run.bench.unstable_because if run.bench else []
    drifting = [row.name for row in run.bench_rows if row.stability.verdict == "drifting"]  # runs of older versions
    return [f"the second half of the run differs from the first for {', '.join(drifting)}"] if drifting else []


def _parity_phrase(run: RunDirectory) -> str:
    if run.parity is None or run.parity.passed is None:
        return "Parity of the exported file: not measured."
    if run.parity.passed:
        return "The exported file generates the same images as the network."
    return "The exported file does NOT generate the same images as the network: do not use it."


def _quality_phrase(run: RunDirectory) -> str:
    teacher, student = (text.plain(run.quality(name).fid, 2) for name in ("teacher", "student"))
    if student is None:
        return "Quality: not measured."
    words = f"FID {student}, its teacher's {teacher or 'not measured'}"
    features = run.quality("student").features
    return f"{words} ({features} features)." if features else f"{words}."


def cards(run: RunDirectory) -> list[Card]:
    """Return the student's large figures."""
    return [
        _speed_card(run),
        _fewer_card(run, "macs", "fewer operations"),
        _fewer_card(run, "parameters", "fewer parameters"),
        _parity_card(run),
        _quality_card(run, "fid", "FID", 2),
        _quality_card(run, "mode_coverage", "mode coverage", 3),
    ]


def _speed_card(run: RunDirectory) -> Card:
    best = fastest_student(run)
    speedup = best.speedup if best else None
    if best is None or speedup is None:
        return Card("speedup", None)
    known = speedup.low is not None and speedup.high is not None
    bounds = f"{speedup.low:.2f} to {speedup.high:.2f} (95\u00a0%)" if known else ""
    if reasons := unstable_because(run):
        return Card("speedup", text.UNSTABLE, "; ".join(reasons), "bad")
    return Card("speedup", text.times(speedup.value), bounds)


def _fewer_card(run: RunDirectory, key: str, label: str) -> Card:
    teacher, student = (getattr(run.run.networks.get(name), key, None) for name in ("teacher", "student"))
    detail = f"{text.amount(teacher)} → {text.amount(student)}" if teacher and student else ""
    return Card(label, text.times(text.ratio(teacher, student)), detail)


def _parity_card(run: RunDirectory) -> Card:
    passed = run.parity.passed if run.parity else None
    if passed is None:
        return Card("parity", None)
    return Card("parity", "passed" if passed else "FAILED", worst_difference(run), "good" if passed else "bad")


def _quality_card(run: RunDirectory, key: str, label: str, digits: int) -> Card:
    teacher, student = (text.plain(getattr(run.quality(name), key), digits) for name in ("teacher", "student"))
    return Card(label, student, f"teacher {teacher}" if teacher else "")


def fastest_student(run: RunDirectory) -> BenchRow | None:
    """Return the student's row with the lowest median, None if no student was measured against a baseline."""
    students = [row for row in run.bench_rows if row.label("model") == "student" and row.speedup is not None]
    return min(students, key=lambda row: row.p50_ms, default=None)


def same_backend_speedup(run: RunDirectory, student: BenchRow) -> float | None:
    """Return teacher over student on the student's own backend: the gain by compression alone."""
    for row in run.bench_rows:
        if row.label("model") == "teacher" and row.label("backend") == student.label("backend") != "":
            return row.p50_ms / student.p50_ms
    return None
