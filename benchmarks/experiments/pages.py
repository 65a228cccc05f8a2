"""What the writers of docs/ share: tables between two markers of a page, and figures of several panels."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...files import write_bytes, write_text
from ..results import markdown_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure


def insert(text: str, topic: str, tables: str) -> str:
    """Return ``text`` with ``tables`` in place of what stood between the topic's markers. InputError without markers.

    Text outside the markers is left alone, because people write the conclusions.
    """
    begin, end = markers(topic)
    if begin not in text or end not in text:
        raise InputError(f"the page has no place for the tables: {begin} ... {end}", "Put both lines into the page.")
    before, rest = text.split(begin, 1)
    return f"{before}{begin}\n\n{tables}\n{end}{rest.split(end, 1)[1]}"


def markers(topic: str) -> tuple[str, str]:
    """Return the lines before and after the tables of a topic, such as "suite" or "experiment"."""
    return f"<!-- figures of the {topic}: begin -->", f"<!-- figures of the {topic}: end -->"


def rewrite(page: Path, topic: str, tables: str) -> None:
    """Replace the tables of a page, atomically; see :func:`insert`."""
    text = insert(page.read_text(encoding="utf-8"), topic, tables)
    write_text(page, text)


def text_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table whose columns are all aligned to the left."""
    return markdown_table(headings, rows, "| " + " | ".join(["---"] * len(headings)) + " |")


def panels(count: int, width: float, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """Return a figure of ``count`` panels side by side, each ``width`` by ``height`` inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * count, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, count, squeeze=False, **options)[0])


def image_rows(rows: Mapping[str, NDArray[np.uint8]], width: float, height: float, interpolation: str) -> Figure:
    """Return a figure of labelled images [H, W, 3] below each other, ``width`` inches wide, ``height`` for each."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height * len(rows)), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    for axes, (label, row) in zip(figure.subplots(len(rows), 1), rows.items(), strict=True):
        axes.imshow(row, interpolation=interpolation, aspect="equal")
        axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    return figure


def plain_log_ticks(axis: Axis) -> None:
    """Label a logarithmic axis with 1, 2, 5, 10, ... instead of powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axis.set_minor_formatter(NullFormatter())


def save_figure(figure: Figure, path: Path) -> None:
    """Write the figure as a PNG, atomically."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130)
    write_bytes(path, stream.getbuffer())
