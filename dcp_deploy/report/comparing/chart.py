"""The picture of the comparison: quality against cost, with the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..charts import WIDTH, Chart, Theme, literal, plain_log_ticks, render, style
from ..judgement import QUALITY
from ..text import amount
from .runs import RunComparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_KEYS = ("fid", "recall")
_HEIGHT = 3.4  # inches of one panel
_LONGEST = 24  # characters of a name in the picture


@dataclass(frozen=True)
class _Point:
    name: str
    cost: float
    value: float
    on_front: bool
    recommended: bool


def front_chart(comparison: RunComparison) -> Chart | None:
    """Draw FID and recall over the cost of each run; the line joins the Pareto front of FID.

    The dashed line is the teacher's figure, the ring the recommendation. None if fewer than two runs have both figures.
    """
    panels = {key: points for key in _KEYS if len(points := _points(comparison, key)) > 1}
    if "fid" not in panels:
        return None

    def draw(figure: Figure, theme: Theme, narrow: bool) -> None:
        shape = (len(panels), 1) if narrow else (1, len(panels))
        for place, (key, points) in zip(figure.subplots(*shape, squeeze=False).flat, panels.items(), strict=True):
            _draw_panel(place, theme, comparison, key, points)

    words = ", ".join(f"{point.name} {point.value:.3g} at {point.cost:.3g}" for point in panels["fid"])
    alt = f"FID over {_cost_words(comparison)}: {words}"
    return render(draw, lambda width: _HEIGHT * (1 if width == WIDTH else len(panels)), alt)


def _points(comparison: RunComparison, key: str) -> list[_Point]:
    return sorted(
        (
            _Point(run.name, cost, value, run.name in comparison.front, run.name == comparison.recommended)
            for run in comparison.runs
            if (cost := getattr(run, comparison.cost)) is not None and (value := run.quality[key]) is not None
        ),
        key=lambda point: point.cost,
    )


def _names_by_place(points: Sequence[_Point]) -> dict[tuple[float, float], list[str]]:
    """Return the names of the runs at each place, so that names of equal runs are not written over each other."""
    places: dict[tuple[float, float], list[str]] = {}
    for point in points:
        places.setdefault((point.cost, point.value), []).append(point.name)
    return places


def _short(name: str) -> str:
    """Return the end of a long name, which tells paths apart."""
    return name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"


def _draw_panel(axes: Axes, theme: Theme, comparison: RunComparison, key: str, points: Sequence[_Point]) -> None:
    scale = QUALITY[key]
    if key == "fid":
        front = [point for point in points if point.on_front]
        axes.plot([p.cost for p in front], [p.value for p in front], color=theme.soft, linewidth=2, zorder=1)
    middle = math.sqrt(points[0].cost) * math.sqrt(points[-1].cost)  # of the logarithmic axis
    for point in points:
        colour = theme.student if point.on_front else theme.teacher
        axes.scatter([point.cost], [point.value], s=46, color=colour, zorder=3)
        if point.recommended:
            axes.scatter([point.cost], [point.value], s=190, facecolors="none", edgecolors=theme.ink, zorder=4)
    for (cost, value), names in _names_by_place(points).items():
        side = -1 if cost > middle else 1  # towards the middle, so that the names stay inside
        axes.annotate(
            literal(_short(", ".join(names))), (cost, value), xytext=(9 * side, 6), textcoords="offset points",
            ha="left" if side > 0 else "right", color=theme.ink, fontsize=10,
        ).set_in_layout(False)  # fmt: skip
    teacher = comparison.teacher.quality[key] if comparison.teacher else None
    if teacher is not None:
        axes.axhline(teacher, color=theme.muted, linewidth=1.2, linestyle=(0, (5, 3)), zorder=0)
        axes.annotate(
            "teacher", (0, teacher), xycoords=("axes fraction", "data"), xytext=(3, -3), textcoords="offset points",
            ha="left", va="top", color=theme.muted, fontsize=9,
        )  # fmt: skip
    axes.set_xscale("log")
    plain_log_ticks(axes.xaxis)
    if comparison.cost == "macs":
        axes.xaxis.set_major_formatter(lambda value, _: amount(value) or "")
    axes.set_xlabel(f"{_cost_words(comparison)}, logarithmic")
    axes.set_title(f"{scale.label}: {scale.direction}", fontsize=11, color=theme.ink, loc="left")
    axes.margins(x=0.25, y=0.18)
    style(axes, theme, grid="y")


def _cost_words(comparison: RunComparison) -> str:
    return "milliseconds per image" if comparison.cost == "latency_ms" else "MACs per image"
