"""The comparison as a table: a row for each figure, a column for each run. No HTML here."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ...gates import UNSTABLE
from .. import text
from ..judgement import QUALITY, Toned, quality_tone
from ..settings import scalar
from ..tables import Cell, Table
from .runs import TEACHER, ComparedRun, RunComparison


def figures_table(comparison: RunComparison) -> Table:
    """Return settings that differ, requirements, speed, quality and size of each run; the teacher's figures last."""
    runs = [*comparison.runs, *([comparison.teacher] if comparison.teacher else [])]

    def row(label: str, show: Callable[[ComparedRun], Cell]) -> tuple[Cell, ...]:
        return (label, *(show(run) for run in runs))

    rows = [
        *(row(name.replace("_", " "), _setting(name)) for name in comparison.runs[0].settings),
        row("requirements", _gates),
        row("speedup", _speedup),
        row("median latency", _latency),
        *(row(f"{scale.label} ({scale.direction})", _quality(comparison, key)) for key, scale in QUALITY.items()),
        row("parameters", _amount(runs, "parameters", text.amount)),
        row("MACs per image", _amount(runs, "macs", text.amount)),
        row("ONNX file", _amount(runs, "onnx_bytes", text.size)),
        row("dominated by", _dominated_by(comparison)),
    ]
    headings = ("", *(_heading(run, comparison) for run in runs))
    return Table(headings, tuple(row for row in rows if any(cell for cell in row[1:])), tuple(notes(comparison)))


def _heading(run: ComparedRun, comparison: RunComparison) -> str:
    return f"{run.name} (recommended)" if run.name == comparison.recommended else run.name


def notes(comparison: RunComparison) -> Iterable[str]:
    """Yield what limits the comparison, what each run misses, and why a speed is not to be trusted."""
    if comparison.front:
        yield "A run is dominated by another one that costs no more and has no higher FID."
    yield from comparison.notes
    for run in comparison.runs:
        if run.missed:
            yield f"{run.name} misses: {'; '.join(run.missed)}."
        if run.parity is False:
            yield f"{run.name}: the exported file does NOT generate the same images as the network: do not use it."
        if run.unstable_because:
            yield f"{run.name}: {UNSTABLE} ({'; '.join(run.unstable_because)})."


def _setting(name: str) -> Callable[[ComparedRun], Cell]:
    return lambda run: "" if run.name == TEACHER else scalar(run.settings[name])


def _gates(run: ComparedRun) -> Cell:
    if run.gates is None:
        return "" if run.name == TEACHER else "none set"
    if run.missed:
        return Toned(f"{len(run.missed)} of {len(run.gates.requirements)} missed", "bad")
    return Toned("met", "good") if run.gates.passed else Toned("missed", "bad")


def _dominated_by(comparison: RunComparison) -> Callable[[ComparedRun], Cell]:
    def show(run: ComparedRun) -> Cell:
        if not comparison.front or run.name == TEACHER:
            return ""
        return run.dominated_by or ("none" if run.name in comparison.front else "not weighed")

    return show


def _speedup(run: ComparedRun) -> Cell:
    if run.name == TEACHER:
        return "" if run.latency_ms is None else "baseline"
    if run.unstable_because:
        return Toned(UNSTABLE, "warn")
    if run.speedup is None:
        return None
    known = run.speedup.low is not None and run.speedup.high is not None
    bounds = f" [{run.speedup.low:.2f}, {run.speedup.high:.2f}]" if known else ""
    return f"{text.times(run.speedup.value)}{bounds}"


def _latency(run: ComparedRun) -> Cell:
    words = text.milliseconds(run.latency_ms)
    return Toned(words, "warn") if words and run.unstable_because else words


def _quality(comparison: RunComparison, key: str) -> Callable[[ComparedRun], Cell]:
    def show(run: ComparedRun) -> Cell:
        words = text.plain(run.quality[key], QUALITY[key].digits)
        teacher = comparison.teacher.quality[key] if comparison.teacher else None
        if words is None or run.name == TEACHER:
            return words
        return Toned(words, quality_tone(key, teacher, run.quality[key]))

    return show


def _amount(
    runs: list[ComparedRun], name: str, show: Callable[[int | None, float | None], Cell]
) -> Callable[[ComparedRun], Cell]:
    """Write every run's amount with the unit of the largest."""
    like = text.largest([getattr(run, name) for run in runs])
    return lambda run: show(getattr(run, name), like)
