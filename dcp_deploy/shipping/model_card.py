"""MODEL_CARD.md of a bundle: what the model is, what was measured, and the licence. Nothing is claimed unmeasured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checkpoints.provenance import UNKNOWN_LICENCE
from ..pipeline.summary import NOT_MEASURED, as_lines, summarise
from ..report.run_directory import Network, RunDirectory
from ..sizes import pixels


def card_of_run(name: str, directory: Path, run: RunDirectory, story: Mapping[str, Any]) -> str:
    """Write the card of a build's student, whose file tells this story."""
    summary = summarise(directory)
    student = run.run.networks.get("student")
    lines = [
        *_head(name, story),
        "## What it is",
        "",
        *_table([
            ("kind", f"{student.kind} at {_size(student)}" if student else NOT_MEASURED),
            ("widths", ", ".join(map(str, student.widths)) if student else NOT_MEASURED),
            ("made by", run.run.command),
            ("made at", run.run.finished),
            ("data set", run.run.config.get("dataset")),
            ("pruned", _pruned(run)),
            *_made_of(story),
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


def card_of_onnx(name: str, metadata: Mapping[str, str], story: Mapping[str, Any]) -> str:
    """Write the card of a single ONNX file, from its metadata and the story in it."""
    facts = [(key, metadata.get(key)) for key in ("kind", "resolution", "widths", "tool", "weights_sha256")]
    facts += _made_of(story)
    measured = [(key, NOT_MEASURED) for key in ("speedup", "quality")]
    lines = [*_head(name, story), "## What it is", "", *_table(facts), "", "## Measured", "", *_table(measured)]
    return "\n".join(lines) + "\n"


def _size(network: Network) -> str:
    """Return the size of a network's images in words; runs of older releases have no ``image_size``."""
    return f"{network.resolution} px" if network.image_size is None else pixels(network.image_size)


def _made_of(story: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the lines on the teacher, the refinement and the training in a student's story."""
    rows: list[tuple[str, Any]] = []
    if teacher := story.get("teacher"):
        rows.append(("teacher", f"{teacher.get('file')}, sha256 {teacher.get('sha256')}"))
    if pruning := story.get("pruning"):
        rows.append(("kept weights", f"refined by {pruning.get('refinement', {}).get('method')}"))
    if distilled := story.get("distillation"):
        rows.append(("distilled", f"{distilled.get('steps')} steps of {distilled.get('batch')} images"))
    return rows


def _head(name: str, story: Mapping[str, Any]) -> list[str]:
    source = story.get("licence_source")
    return [
        f"# {name}",
        "",
        f"**Licence:** {story.get('licence') or UNKNOWN_LICENCE}.",
        "",
        *([f"Stated by: {source}.", ""] if source else []),
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
