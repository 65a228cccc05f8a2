"""Tables and a figure from the suite's documents, without measuring anything.

    python -m dcp_deploy.benchmarks.experiments.suite_figures FOLDER --docs docs

writes the tables into benchmarks.md, between its markers, and the latencies as images/latency.png. Latencies are the
medians in the documents; speed-ups are over the eager teacher of the same run.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ...files import read_json
from ..candidates.matrix import BACKENDS
from ..statistics import ratio_of_medians
from .pages import panels, rewrite, save_figure, text_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    "torch": "#98a3b1",
    "onnxruntime": "#a9bcff",
    "onnxruntime-winograd": "#6f8dff",
    "openvino": "#4767e0",
    "openvino-winograd": "#1f3fae",
}
COMPILED = [name for name in COLOURS if name != "torch"]
SHOWN = "student 0.7 by 16"  # the student in the figure

Document = Mapping[str, Any]
Row = Mapping[str, Any]


def load_suite(folder: Path) -> dict[str, Document]:
    """Return the documents by network, full sizes before quick ones. InputError when there are none."""
    found = {path.stem: read_json(path) for path in sorted(folder.glob("stylegan*.json"))}
    if not found:
        remedy = "Make one: python -m dcp_deploy.benchmarks.experiments.suite"
        raise InputError(f"{folder} holds no document of the suite", remedy)
    return dict(sorted(found.items(), key=lambda item: _sort_key(item[0])))


def _sort_key(network: str) -> tuple[bool, str, int]:
    """Order "stylegan2-256", "stylegan2-1024", ..., then "stylegan2-64-quick"."""
    kind, resolution, *quick = network.split("-")
    return bool(quick), kind, int(resolution)


def row_of(document: Document, model: str, backend: str, precision: str = "fp32") -> Row | None:
    """Return the row of a model in a backend; None where it was not measured."""
    wanted = {"model": model, "backend": backend, "precision": precision}
    return next((row for row in document["rows"] if wanted.items() <= row["labels"].items()), None)


def report(found: Mapping[str, Document]) -> str:
    """Return everything as Markdown: for each network the machine, its latencies and what alignment changes."""
    lines: list[str] = []
    for network, document in found.items():
        rounds = document["method"]["rounds"]
        lines += ["", f"### {network}", "", f"{rounds} interleaved rounds on {_machine(document)}:", ""]
        module = "python -m dcp_deploy.benchmarks.experiments.suite"
        lines += ["```sh", document["environment"]["command"].replace("suite.py", module, 1), "```", ""]
        lines += [*_latencies(document), "", *_alignment(document), ""]
        lines += [f"- {note}" for note in document["notes"]]
    return "\n".join(lines[1:])


def _machine(document: Document) -> str:
    environment = document["environment"]
    packages = environment["packages"]
    versions = [f"{name} {packages[name]}" for name in ("torch", "onnxruntime", "openvino") if packages.get(name)]
    cores, python = f"{environment['usable_cores']} cores", f"Python {environment['python']}"
    return ", ".join([environment["cpu"], cores, python, *versions])


def _latencies(document: Document) -> list[str]:
    rows = []
    for row in document["rows"]:
        labels, speedup, roof = row["labels"], row["speedup"], row["roofline"]
        rows.append([
            labels["model"], BACKENDS[labels["backend"]].title, labels["precision"], f"{row['p50_ms']:.4g}",
            _bounds(row["intervals"]["p50"]), f"{speedup['value']:.1f}x" if speedup else "", _bounds(speedup),
            f"{roof['of_floor']:.2f}" if roof else "",
        ])  # fmt: skip
    headings = ["model", "backend", "precision", "p50 ms", "95 %", "speed-up", "95 %", "p50 / floor"]
    return text_table(headings, rows)


def _alignment(document: Document) -> list[str]:
    """Compare latency per multiply-accumulate of widths in multiples of 8 and 16 with ragged ones of the same ratio."""
    rows = []
    for ratio, align in _aligned_students(document):
        aligned, ragged = f"student {ratio} by {align}", f"student {ratio} by 1"
        cells = []
        for backend in COMPILED:
            ours, theirs = row_of(document, aligned, backend), row_of(document, ragged, backend)
            cells.append(_gain(theirs, ours) if ours and theirs else "not measured")
        first = row_of(document, aligned, "onnxruntime")
        rows.append([ratio, align, f"{_operations(first) / 2e6:,.0f} M" if first else "", *cells])
    gains = [f"{BACKENDS[name].title}, gain at equal MACs" for name in COMPILED]
    return text_table(["ratio", "multiples of", "MACs", *gains], rows)


def _gain(ragged: Row, aligned: Row) -> str:
    """Return by what factor the time of a multiply-accumulate falls: ratio of medians, each over its operations."""
    ratio = ratio_of_medians(ragged["samples_ms"], aligned["samples_ms"])
    share = _operations(aligned) / _operations(ragged)
    return f"{ratio.value * share:.2f} [{ratio.low * share:.2f}, {ratio.high * share:.2f}]"


def _operations(row: Row) -> int:
    return int(row["roofline"]["operations"])


def _aligned_students(document: Document) -> Iterator[tuple[str, str]]:
    """Yield ratio and alignment of every student whose widths are not ragged."""
    for model in dict.fromkeys(row["labels"]["model"] for row in document["rows"]):
        if (words := re.fullmatch(r"student (\S+) by (\d+)", model)) and words[2] != "1":
            yield words[1], words[2]


def _bounds(interval: Mapping[str, float] | None) -> str:
    return f"{interval['low']:.4g} to {interval['high']:.4g}" if interval else ""


def draw(found: Mapping[str, Document], path: Path) -> None:
    """Draw the latency of the teacher and of one student in every backend and precision, a panel per network."""
    figure, axes = panels(len(found), 5.6, 3.0)
    for panel, (network, document) in zip(axes, found.items(), strict=True):
        _panel(panel, network, document)
    save_figure(figure, path)


def _panel(axes: Axes, network: str, document: Document) -> None:
    rows = [row for row in document["rows"] if row["labels"]["model"] in ("teacher", SHOWN)]
    for y, row in enumerate(rows):
        p50, backend = row["p50_ms"], row["labels"]["backend"]
        gain = row["speedup"]["value"] if row["speedup"] else 1.0  # the eager teacher is the baseline
        axes.barh(y, p50, color=COLOURS[backend])
        axes.text(p50, y, f" {p50:,.0f} ms, {gain:.1f}x", va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [_title(row["labels"]) for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.35 * max(row["p50_ms"] for row in rows))
    axes.set_xticks([])
    axes.set_title(f"{network}, 70 % of the channels removed", fontsize=9)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)


def _title(labels: Mapping[str, str]) -> str:
    precision = "" if labels["precision"] == "fp32" else f", {labels['precision']}"
    return f"{labels['model'].split()[0]}, {BACKENDS[labels['backend']].title}{precision}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Tables and a figure from the suite's documents.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--docs", type=Path, required=True, help="writes benchmarks.md and images/latency.png in it")
    options = parser.parse_args(arguments)
    found = load_suite(options.folder)
    rewrite(options.docs / "benchmarks.md", "suite", report(found))
    full = {name: document for name, document in found.items() if "quick" not in name}
    draw(full or found, options.docs / "images" / "latency.png")


if __name__ == "__main__":
    main()
