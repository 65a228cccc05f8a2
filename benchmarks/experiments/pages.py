"""What the writers of docs/ share: tables between two markers of a page, and figures of several panels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ...files import atomic_path
from ..results import markdown_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def rewrite(page: Path, topic: str, tables: str) -> None:
    """Replace what stands between the topic's markers in a page by ``tables``, atomically. InputError without markers.

    The topic is "suite" or "experiment". Text outside the markers is left alone, because people write the conclusions.
    """
    text = page.read_text(encoding="utf-8")
    begin, end = (f"<!-- figures of the {topic}: {place} -->" for place in ("begin", "end"))
    if begin not in text or end not in text:
        raise InputError(f"{page} has no place for the tables: {begin} ... {end}", "Put both lines into the page.")
    before, rest = text.split(begin, 1)
    with atomic_path(page) as temporary:
        temporary.write_text(f"{before}{begin}\n\n{tables}\n{end}{rest.split(end, 1)[1]}", encoding="utf-8")


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


def save_figure(figure: Figure, path: Path) -> None:
    """Write the figure as a PNG, atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
