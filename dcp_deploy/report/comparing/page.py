"""Write a comparison as one HTML file that needs no network, no other file and no script."""

from __future__ import annotations

import os
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


def write_page(path: str | os.PathLike[str], comparison: RunComparison) -> None:
    """Write the page; its links lead to the runs' reports, relative to the page."""
    target = Path(path)
    write_text(target, template("comparing/comparison.html.jinja").render(_content(comparison, target.parent)))


def _content(comparison: RunComparison, folder: Path) -> dict[str, Any]:
    names = [run.name for run in comparison.runs]
    tone: Tone = "good" if comparison.recommended else "warn"
    return {
        "title": f"{len(names)} students compared",
        "style": Markup(resource("report.css")),
        "names": names,
        "tone": tone,
        "verdict": f"Recommended: {comparison.recommended}" if comparison.recommended else "No recommendation",
        "reason": comparison.reason,
        "requirements": comparison.requirements,
        "chart": front_chart(comparison),
        "table": figures_table(comparison),
        "blocks": side_by_side(dict(zip(names, comparison.directories, strict=True))),
        "psi": comparison.directories[0].samples.psi,
        "reports": [(run.name, _link(run.directory, folder), run.directory) for run in comparison.runs],
        "commands": list(zip(names, (one.run.command for one in comparison.directories), strict=True)),
    }


def _link(directory: str, folder: Path) -> str | None:
    """Return the address of a run's report as seen from the page, None without a report."""
    report = Path(directory) / "report.html"
    return quote(os.path.relpath(report, folder)) if report.is_file() else None
