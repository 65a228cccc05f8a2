"""Write a comparison as one HTML file that needs no network, no other file and no script."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from ...files import write_text
from ..judgement import Tone
from ..page import resource, template
from ..strips import side_by_side
from .chart import front_chart
from .runs import RunComparison
from .table import figures_table


def write_page(path: str | os.PathLike[str], comparison: RunComparison, *, folder: Path | None = None) -> None:
    """Write the page; its links lead to the runs' reports, relative to ``folder``, by default that of the page."""
    target = Path(path)
    content = _content(comparison, target.parent if folder is None else folder)
    write_text(target, template("comparing/comparison.html.jinja").render(content))


def _content(comparison: RunComparison, folder: Path) -> dict[str, Any]:
    names = [run.name for run in comparison.runs]
    pictures, without = side_by_side(dict(zip(names, comparison.directories, strict=True)))
    tone: Tone = "good" if comparison.recommended else "warn"
    return {
        "title": f"{len(names)} students compared",
        "style": Markup(resource("report.css")),
        "tone": tone,
        "verdict": f"Recommended: {comparison.recommended}" if comparison.recommended else "No recommendation",
        "reason": comparison.reason,
        "requirements": comparison.requirements,
        "chart": front_chart(comparison),
        "reading": " ".join(_reading(comparison)),
        "compared_with_teacher": comparison.teacher is not None,
        "table": figures_table(comparison),
        "blocks": pictures,
        "without": without,
        "psi": next((run.samples.psi for run in comparison.directories if "student" in run.grids), None),
        "reports": [(run.name, _link(run.directory, folder), run.directory) for run in comparison.runs],
        "commands": list(zip(names, (one.run.command for one in comparison.directories), strict=True)),
    }


def _reading(comparison: RunComparison) -> Iterator[str]:
    """Yield how to read the picture."""
    yield "Left is cheaper."
    if comparison.front:
        yield "The line joins the Pareto front: no other run costs as little and has as low a FID."
    if comparison.recommended:
        yield "The ring marks the recommended run."
    if comparison.teacher is not None:
        yield "The dashed line is the teacher."


def _link(directory: str, folder: Path) -> str | None:
    """Return the address of a run's report as seen from the page, None without a report."""
    report = Path(directory) / "report.html"
    return quote(os.fsencode(os.path.relpath(report, folder))) if report.is_file() else None
