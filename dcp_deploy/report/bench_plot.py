"""A benchmark as one plot: the distribution of latencies and, with several batches, their growth."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..files import write_bytes
from .charts import LIGHT, WIDTH, Theme, draw_latencies, drawing, literal, model_colour, plain_log_ticks, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".png", ".svg")
DPI = 150  # of a PNG
_MARKERS = "os^Dv<>P"
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))


@dataclass(frozen=True)
class Point:
    """One row of a benchmark: batch, median and its interval in milliseconds."""

    batch: int
    p50: float
    low: float
    high: float


def save_plot(path: str | os.PathLike[str], document: Mapping[str, Any]) -> None:
    """Draw the document of ``bench`` to a PNG or SVG file. UsageError for another ending of its name."""
    path = Path(path)
    check_ending(path)
    from matplotlib.figure import Figure

    rows = document["rows"]
    samples = {row["name"]: row["samples_ms"] for row in rows}
    lines = growth(rows)
    heights = [0.75 + 0.6 * len(samples), *([4.2] if lines else [])]
    stream = io.BytesIO()
    with drawing():
        figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained", facecolor="white")
        axes = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        draw_latencies(axes[0], LIGHT, samples)
        if lines:
            draw_growth(axes[1], LIGHT, lines)
        kind = path.suffix.lower().lstrip(".")
        figure.savefig(stream, format=kind, dpi=DPI, metadata={"Date": None} if kind == "svg" else None)
    write_bytes(path, stream.getbuffer())


def check_ending(path: Path) -> None:
    """Raise UsageError unless the name ends in .png or .svg."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"cannot draw {path.name}", f"End its name in one of: {', '.join(FORMATS)}.")


def growth(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Point]]:
    """Return each candidate's points by batch, under its name without the batch; empty if none has several."""
    lines: dict[str, list[Point]] = {}
    for row in rows:
        middle = row["intervals"].get("p50") or {"low": row["p50_ms"], "high": row["p50_ms"]}
        name = row["name"].replace(f", batch {row['batch']}", "")
        lines.setdefault(name, []).append(Point(row["batch"], row["p50_ms"], middle["low"], middle["high"]))
    ordered = {name: sorted(points, key=lambda point: point.batch) for name, points in lines.items()}
    return ordered if any(len(points) > 1 for points in ordered.values()) else {}


def draw_growth(axes: Axes, theme: Theme, lines: Mapping[str, Sequence[Point]]) -> None:
    """Draw milliseconds of a call against its batch, both logarithmic, with the medians' intervals."""
    for (name, points), marker, dashes in zip(lines.items(), cycle(_MARKERS), _by_model(lines), strict=False):
        batches, middles = [point.batch for point in points], [point.p50 for point in points]
        below = [point.p50 - point.low for point in points]
        above = [point.high - point.p50 for point in points]
        axes.errorbar(
            batches, middles, yerr=[below, above], label=literal(name), color=model_colour(name, theme),
            marker=marker, markersize=5, linewidth=1.8, linestyle=dashes, capsize=3,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    every = sorted({point.batch for points in lines.values() for point in points})
    plain_log_ticks(axes.xaxis)
    plain_log_ticks(axes.yaxis)
    axes.set_xticks(every, labels=[str(batch) for batch in every])
    axes.set_xlabel("images per call")
    axes.set_ylabel("milliseconds per call")
    style(axes, theme, grid="y")
    axes.legend(frameon=False, labelcolor=theme.ink, fontsize=10, loc="upper left", bbox_to_anchor=(1, 1))


def _by_model(lines: Mapping[str, object]) -> Iterator[Any]:
    """Yield line styles: candidates of one model share a colour and differ in their dashes."""
    dashes: dict[str, Iterator[Any]] = {}
    for name in lines:
        yield next(dashes.setdefault(name.partition(",")[0], cycle(_DASHES)))
