"""The charts of the report, each None if a run lacks its data."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import JsonValue

from .charts import Chart, curves_chart, latency_chart, scores_chart, widths_chart
from .judgement import QUALITY
from .run_directory import RunDirectory
from .settings import flat

_QUALITY_CURVES = {*QUALITY, "kid", "l1_to_teacher"}
_NOT_CURVES = {"step", "seconds", "images", "images_per_second", "lr", "seed"}


def latency_picture(run: RunDirectory) -> Chart | None:
    """Draw the distribution of the raw latencies."""
    samples = {row.name: row.samples_ms for row in run.bench_rows if row.samples_ms}
    return latency_chart(samples) if samples else None


def widths_picture(run: RunDirectory) -> Chart | None:
    """Draw the channels per layer of teacher and student."""
    teacher, student = run.widths()
    return widths_chart(run.layer_names(len(teacher)), teacher, student) if teacher else None


def scores_picture(run: RunDirectory) -> Chart | None:
    """Draw the scores per layer, with the cut if the student's widths fit them."""
    if not run.scores:
        return None
    student = run.run.networks.get("student")
    kept = student.widths if student else []
    fits = len(kept) == len(run.scores) and all(0 < k <= len(s) for k, s in zip(kept, run.scores, strict=True))
    return scores_chart(run.layer_names(len(run.scores)), run.scores, kept if fits else None)


def loss_picture(run: RunDirectory) -> Chart | None:
    """Draw every loss of the distillation."""
    return _curves(run, lambda name: name not in _QUALITY_CURVES, "Distillation losses over training steps")


def quality_picture(run: RunDirectory) -> Chart | None:
    """Draw what was measured of the averaged student during distillation, such as its distance to the teacher."""
    return _curves(run, lambda name: name in _QUALITY_CURVES, "Quality over training steps")


def _curves(run: RunDirectory, wanted: Callable[[str], bool], alt: str) -> Chart | None:
    entries = [dict(flat(entry)) for entry in run.history]
    names = [name for name in dict.fromkeys(key for entry in entries for key in entry) if name not in _NOT_CURVES]
    curves = {
        name: [_number(entry.get(name)) for entry in entries] for name in names if wanted(name.rpartition(".")[2])
    }
    curves = {name: values for name, values in curves.items() if sum(value is not None for value in values) > 1}
    steps = [_number(entry.get("step")) for entry in entries]
    xs = [float(index) if step is None else step for index, step in enumerate(steps)]
    return curves_chart(xs, curves, alt) if curves else None


def _number(value: JsonValue) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
