"""Write a run directory as one HTML file that needs no network, no scripts and no other file."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from pydantic import JsonValue

from .. import files
from . import headline, pictures, tables
from .run_directory import MODELS, Grid, RunDirectory, read_run_directory

if TYPE_CHECKING:
    from jinja2 import Template

NOT_MEASURED = Markup('<span class="none">not measured</span>')

_GRID_TITLES = {
    "teacher": "Teacher",
    "pruned": "Pruned, before distillation",
    "student": "Student",
    "real": "Images of the data set",
}


def write_report(run_dir: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` into a build's folder, from the files in it, and return its path.

    What was not measured is printed as such. Raises InputError without a ``run.json``, and CorruptFileError with
    the name of the file if one is malformed.
    """
    folder = Path(run_dir)
    page = render(read_run_directory(folder))
    target = folder / "report.html"
    files.write_text(target, page)
    return target


def render(run: RunDirectory) -> str:
    """Return the page. The same run gives the same text."""
    return _template().render(_content(run))


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("dcp_deploy.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["measured"] = _measured
    return environment.get_template("report.html.jinja")


def _content(run: RunDirectory) -> dict[str, Any]:
    dataset = run.run.config.get("dataset")
    return {
        "title": f"{dataset} student" if dataset else "Student",
        "run": run.run,
        "verdict": headline.verdict(run),
        "cards": headline.cards(run),
        "grids": [(_GRID_TITLES[name], _grid(grid)) for name, grid in _ordered(run.grids)],
        "comparison": tables.comparison_table(run),
        "latency": tables.latency_table(run),
        "latency_chart": pictures.latency_picture(run),
        "tradeoff_chart": pictures.tradeoff_picture(run),
        "method": tables.mapping_table(run.bench.method if run.bench else {}),
        "rare": tables.rare_table(run),
        "parity": tables.parity_table(run),
        "checks": tables.checks_table(run),
        "widths": tables.widths_table(run),
        "widths_chart": pictures.widths_picture(run),
        "scores_chart": pictures.scores_picture(run),
        "loss_chart": pictures.loss_picture(run),
        "quality_chart": pictures.quality_picture(run),
        "engines": {name: tables.mapping_table(manifest) for name, manifest in run.engines.items()},
        "no_engine": run.run.stages["engine"].reason if "engine" in run.run.stages else None,
        "stages": tables.stages_table(run),
        "environment": tables.mapping_table(_environment(run)),
        "config": tables.mapping_table({**run.run.config, **run.run.effort}),
        "images": tables.mapping_table(run.run.images),
    }


def _environment(run: RunDirectory) -> Mapping[str, JsonValue]:
    """Return the build's environment, else the benchmark's, without the command, which the page shows elsewhere."""
    found = run.run.environment or (run.bench.environment if run.bench else {})
    return {key: value for key, value in found.items() if key != "command"}


def _ordered(grids: Mapping[str, Grid]) -> list[tuple[str, Grid]]:
    return [(name, grids[name]) for name in (*MODELS, "real") if name in grids]


def _grid(grid: Grid) -> dict[str, Any]:
    uri = "data:image/png;base64," + base64.b64encode(grid.png).decode()
    return {"uri": uri, "width": grid.width, "height": grid.height}


def _measured(cell: str | None) -> str | Markup:
    return NOT_MEASURED if cell is None else cell
