"""MODEL_CARD.md of a bundle: what the model is, what was measured, and the licence. Nothing is claimed unmeasured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..pipeline.summary import NOT_MEASURED, as_lines, summarise
from ..report.run_directory import Network, RunDirectory
from ..sizes import pixels

UNKNOWN_TERMS = "not stated by the files it was made from; the terms of the teacher's weights and training images apply"


def card_of_run(name: str, directory: Path, run: RunDirectory, licence: str | None) -> str:
    """Write the card of a build's student."""
    summary = summarise(directory)
    student = run.run.networks.get("student")
    lines = [
        *_head(name, licence),
        "## What it is",
        "",
        *_table([
            ("kind", f"{student.kind} at {_size(student)}" if student else NOT_MEASURED),
            ("widths", ", ".join(map(str, student.widths)) if student else NOT_MEASURED),
            ("made by", run.run.command),
            ("made at", run.run.finished),
            ("data set", run.run.config.get("dataset")),
            ("pruned", _pruned(run)),
        ]),
        "",
        "## Measured",
        "",
        *_table([line for line in as_lines(summary) if line[0] not in ("report", "engine")]),
        "",
        *_latency(run),
        "## Not measured",
        "",
        "Bias, memorisation of training images, and behaviour on latents other than the standard normal distribution.",
        *([f"Quality: {summary['not_measured']}."] if summary["not_measured"] else []),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def card_of_onnx(name: str, metadata: Mapping[str, str], licence: str | None) -> str:
    """Write the card of a single ONNX file, from its metadata."""
    facts = [(key, metadata.get(key)) for key in ("kind", "resolution", "widths", "tool", "weights_sha256")]
    measured = [(key, NOT_MEASURED) for key in ("speedup", "quality")]
    lines = [*_head(name, licence), "## What it is", "", *_table(facts), "", "## Measured", "", *_table(measured)]
    return "\n".join(lines) + "\n"


def _size(network: Network) -> str:
    """Return the size of a network's images in words; runs of older releases have no ``image_size``."""
    return f"{network.resolution} px" if network.image_size is None else pixels(network.image_size)


def _head(name: str, licence: str | None) -> list[str]:
    return [
        f"# {name}",
        "",
        f"**Licence:** {licence or UNKNOWN_TERMS}.",
        "",
        "A student inherits the terms of its teacher's weights and of the images that either was trained on.",
        "",
    ]


def _pruned(run: RunDirectory) -> str:
    teacher, student = run.widths()
    if not student:
        return NOT_MEASURED
    return f"{1 - sum(student) / sum(teacher):.0%} of the teacher's channels, by {run.run.config.get('score')} scores"


def _latency(run: RunDirectory) -> list[str]:
    if not run.bench_rows or run.bench is None:
        return [f"Latency: {NOT_MEASURED}.", ""]
    environment = run.bench.environment
    where = f"{environment.get('cpu')}, {environment.get('usable_cores')} cores, GPU {environment.get('gpu')}"
    rows = [(row.name, f"p50 {row.p50_ms:.2f} ms, batch {run.bench.batch}") for row in run.bench_rows]
    return ["Latency of one call, measured where it was built, on " + where + ":", "", *_table(rows), ""]


def _table(rows: list[tuple[str, Any]]) -> list[str]:
    """Return a table of two columns; missing values read "not measured"."""
    cells = [(key, str(NOT_MEASURED if value in (None, "") else value).replace("|", "\\|")) for key, value in rows]
    return ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in cells)]
