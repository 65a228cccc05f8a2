"""Write a run directory as one HTML file that needs no network and no other file.

Its one script moves the slider between teacher and student; everything else works without it.
"""

from __future__ import annotations

import base64
import hashlib
import os
from functools import cache
from importlib.resources import files as resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from .. import files
from . import headline, next_steps, pictures, settings, tables, text
from .rare import rare_bars
from .run_directory import RunDirectory, read_run_directory
from .strips import blocks

if TYPE_CHECKING:
    from jinja2 import Template

NOT_MEASURED = Markup('<span class="none">not measured</span>')


def write_report(run_dir: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` into a build's folder, from the files in it, and return its path.

    What was not measured is printed as such. Raises InputError without a ``run.json``, and CorruptFileError with
    the name of the file if one is malformed.
    """
    folder = Path(run_dir)
    target = folder / "report.html"
    files.write_text(target, render(read_run_directory(folder)))
    return target


def render(run: RunDirectory) -> str:
    """Return the page. The same run gives the same text."""
    return template("report.html.jinja").render(_content(run))


@cache
def template(name: str) -> Template:
    """Return a page's template. Its text is escaped, and a name that it does not get is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("dcp_deploy.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["measured"] = _measured
    environment.filters["tone"] = lambda cell: getattr(cell, "tone", "")
    environment.filters["date"] = text.date
    return environment.get_template(name)


def _content(run: RunDirectory) -> dict[str, Any]:
    dataset = run.run.config.get("dataset")
    script = resource("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {
        "title": f"{dataset} student" if dataset else "Student",
        "style": Markup(resource("report.css")),
        "script": Markup(script),
        "script_hash": Markup(f"'sha256-{digest}'"),
        "run": run.run,
        "verdict": headline.verdict(run),
        "gate": headline.gate(run),
        "cards": headline.cards(run),
        "web_page": next_steps.WEB_PAGE if next_steps.WEB_PAGE in run.files else "",
        "steps": next_steps.next_steps(run),
        "files": next_steps.files_of(run),
        "blocks": blocks(run),
        "samples": run.samples,
        "rare_traits": headline.rare_traits(run),
        "comparison": tables.comparison_table(run),
        "latency": tables.latency_table(run),
        "latency_chart": pictures.latency_picture(run),
        "method": settings.mapping_table(run.bench.method if run.bench else {}),
        "rare": rare_bars(run),
        "modes": tables.modes_table(run),
        "latents": tables.latents_table(run),
        "edits": tables.edits_table(run),
        "parity": tables.parity_table(run),
        "checks": tables.checks_table(run),
        "widths": tables.widths_table(run),
        "widths_chart": pictures.widths_picture(run),
        "scores_chart": pictures.scores_picture(run),
        "loss_chart": pictures.loss_picture(run),
        "quality_chart": pictures.quality_picture(run),
        "engines": {name: settings.mapping_table(manifest) for name, manifest in run.engines.items()},
        "no_engine": run.run.stages["engine"].reason if "engine" in run.run.stages else None,
        "stages": tables.stages_table(run),
        "environment": settings.machine_table(run),
        "changed": settings.changed_table(run),
        "config": settings.settings_table(run),
        "images": settings.mapping_table(run.run.images, "none"),
    }


def resource(name: str) -> str:
    """Return the text of a file beside the templates."""
    return resources(__package__).joinpath(name).read_text(encoding="utf-8")


def _shown(value: Any) -> Any:
    """Escape control characters, which names of folders and commands may hold and HTML may not."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else files.escaped(value)


def _measured(cell: str | None) -> str | Markup:
    return NOT_MEASURED if cell is None else cell
