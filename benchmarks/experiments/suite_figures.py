"""Tables and a figure from the suite's documents.

Run ``python -m dcp_deploy.benchmarks.experiments.suite_figures FOLDER --docs docs``.

    FOLDER/<network>.json ... -> docs/benchmarks.md, between its markers, and docs/images/latency.png

Nothing is measured here. Latencies are the medians that the documents hold; speed-ups are over the eager teacher of the
same run.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ...files import atomic_path, read_json
from ..candidates.matrix import BACKENDS
from ..results import between, markdown_head, markdown_row
from ..statistics import ratio_of_medians

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BEGIN, END = "<!-- figures of the suite: begin -->", "<!-- figures of the suite: end -->"
COLOURS = {
    "torch": "#98a3b1",
    "onnxruntime": "#a9bcff",
    "onnxruntime-winograd": "#6f8dff",
    "openvino": "#4767e0",
    "openvino-winograd": "#1f3fae",
}
SHOWN = "student 0.7 by 16"  # of the figure

Document = Mapping[str, Any]
Row = Mapping[str, Any]


def load_suite(folder: Path) -> dict[str, Document]:
    """The documents by network, whole sizes before quick ones. InputError when there is none."""
    found = {path.stem: read_json(path) for path in sorted(folder.glob("stylegan*.json"))}
    if not found:
        raise InputError(
            f"{folder} holds no document of the suite", "make one: python -m dcp_deploy.benchmarks.experiments.suite"
        )
    return dict(sorted(found.items(), key=lambda item: _place(item[0])))


def _place(network: str) -> tuple[bool, str, int]:
    """ "stylegan2-256", "stylegan2-1024", ..., then "stylegan2-64-quick"."""
    kind, resolution, *quick = network.split("-")
    return bool(quick), kind, int(resolution)


def row_of(document: Document, model: str, backend: str, precision: str = "fp32") -> Row | None:
    """The row of a model in a backend; None where it was not measured."""
    wanted = {"model": model, "backend": backend, "precision": precision}
    return next((row for row in document["rows"] if wanted.items() <= row["labels"].items()), None)


def report(found: Mapping[str, Document]) -> str:
    """Everything as Markdown: machine, then for each network its latencies and what alignment changes."""
    lines: list[str] = []
    for network, document in found.items():
        rounds = document["method"]["rounds"]
        lines += ["", f"### {network}", "", f"{rounds} interleaved rounds on {_machine(document)}:", ""]
        command = document["environment"]["command"].replace(
            "suite.py", "python -m dcp_deploy.benchmarks.experiments.suite", 1
        )
        lines += ["```sh", command, "```", ""]
        lines += [*_latencies(document), "", *_alignment(document), ""]
        lines += [f"- {note}" for note in document["notes"]]
    return "\n".join(lines[1:])


def _machine(document: Document) -> str:
    seen = document["environment"]
    versions = ", ".join(f"{name} {seen['packages'][name]}" for name in ("torch", "onnxruntime", "openvino")
                         if seen["packages"].get(name))  # fmt: skip
    return f"{seen['cpu']}, {seen['usable_cores']} cores, Python {seen['python']}, {versions}"


def _latencies(document: Document) -> Iterator[str]:
    yield from markdown_head("model", "backend", "precision", "p50 ms", "95 %", "speed-up", "95 %", "p50 / floor")
    for row in document["rows"]:
        labels, p50, speedup, roof = row["labels"], row["intervals"]["p50"], row["speedup"], row["roofline"]
        yield markdown_row([
            labels["model"], BACKENDS[labels["backend"]].title, labels["precision"], f"{row['p50_ms']:.4g}",
            _interval(p50), f"{speedup['value']:.1f}x" if speedup else "", _interval(speedup),
            f"{roof['of_floor']:.2f}" if roof else "",
        ])  # fmt: skip


def _alignment(document: Document) -> Iterator[str]:
    """Latency per multiply-accumulate of widths in multiples of 8 and 16, against ragged ones of the same ratio."""
    gains = [f"{BACKENDS[name].title}, gain at equal MACs" for name in _compiled()]
    yield from markdown_head("ratio", "multiples of", "MACs", *gains)
    for ratio, align in _pairs(document):
        aligned, ragged = f"student {ratio} by {align}", f"student {ratio} by 1"
        cells = []
        for backend in _compiled():
            ours, theirs = row_of(document, aligned, backend), row_of(document, ragged, backend)
            cells.append(_gain(theirs, ours) if ours and theirs else "not measured")
        first = row_of(document, aligned, "onnxruntime")
        yield markdown_row([ratio, align, f"{_operations(first) / 2e6:,.0f} M" if first else "", *cells])


def _gain(ragged: Row, aligned: Row) -> str:
    """How much less time a multiply-accumulate takes: ratio of medians, both over their own number of operations."""
    found = ratio_of_medians(ragged["samples_ms"], aligned["samples_ms"])
    share = _operations(aligned) / _operations(ragged)
    return f"{found.value * share:.2f} [{found.low * share:.2f}, {found.high * share:.2f}]"


def _operations(row: Row) -> int:
    return int(row["roofline"]["operations"])


def _compiled() -> list[str]:
    return [name for name in COLOURS if name != "torch"]


def _pairs(document: Document) -> Iterator[tuple[str, str]]:
    models = dict.fromkeys(row["labels"]["model"] for row in document["rows"])
    for model in models:
        if (words := re.fullmatch(r"student (\S+) by (\d+)", model)) and words[2] != "1":
            yield words[1], words[2]


def _interval(value: Mapping[str, float] | None) -> str:
    return f"{value['low']:.4g} to {value['high']:.4g}" if value else ""


def insert(text: str, tables: str) -> str:
    """``text`` with what stands between the markers replaced. InputError when it has none."""
    if BEGIN not in text or END not in text:
        raise InputError(f"no place for the figures: {BEGIN} ... {END}", "put both lines into the document")
    return between(text, BEGIN, END, tables)


def draw(found: Mapping[str, Document], path: Path) -> None:
    """Milliseconds of the teacher and of one student in every backend and precision, a panel for each network. PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6 * len(found), 3.0), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (network, document) in zip(panels, found.items(), strict=True):
        _panel(axes, network, document)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def _panel(axes: Axes, network: str, document: Document) -> None:
    rows = [row for row in document["rows"] if row["labels"]["model"] in ("teacher", SHOWN)]
    for place, row in enumerate(rows):
        p50, backend = row["p50_ms"], row["labels"]["backend"]
        gain = row["speedup"]["value"] if row["speedup"] else 1.0  # of the eager teacher itself
        axes.barh(place, p50, color=COLOURS[backend])
        axes.text(p50, place, f" {p50:,.0f} ms, {gain:.1f}x", va="center", fontsize=8)
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
    page = options.docs / "benchmarks.md"
    text = insert(page.read_text(encoding="utf-8"), report(found))
    with atomic_path(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    whole = {name: document for name, document in found.items() if "quick" not in name}
    draw(whole or found, options.docs / "images" / "latency.png")


if __name__ == "__main__":
    main()
