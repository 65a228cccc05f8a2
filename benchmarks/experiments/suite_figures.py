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
from .pages import panels, plain_log_ticks, rewrite, save_figure, text_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MODELS = {"teacher": ("#56606b", "o"), "student": ("#0072b2", "s")}  # colour and marker in the figure
COMPILED = ["onnxruntime", "onnxruntime-winograd", "openvino", "openvino-winograd"]
SHOWN = "student 0.7 by 16"  # the student in the figure

Document = Mapping[str, Any]
Row = Mapping[str, Any]


def load_suite(folder: Path) -> dict[str, Document]:
    """Return the documents by network, pairs and quick sizes last. InputError when there are none."""
    found = {path.stem: read_json(path) for path in sorted(folder.glob("stylegan*.json"))}
    if not found:
        remedy = "Make one: python -m dcp_deploy.benchmarks.experiments.suite"
        raise InputError(f"{folder} holds no document of the suite", remedy)
    return dict(sorted(found.items(), key=lambda item: _sort_key(item[0])))


def _sort_key(network: str) -> tuple[bool, str, int]:
    """Order "stylegan2-256", "stylegan2-1024", ..., then "stylegan2-256-pair" and "stylegan2-64-quick"."""
    kind, resolution, *part = network.split("-")
    return bool(part), kind, int(resolution)


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
        lines += [*_latencies(document), ""]
        lines += [] if network.endswith("-pair") else [*_alignment(document), ""]
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
    precisions = {row["labels"]["precision"]: None for document in found.values() for row in _shown(document)}
    figure, axes = panels(len(found), 6.2, 4.6)
    for panel, (network, document) in zip(axes, found.items(), strict=True):
        _panel(panel, network, document, list(precisions))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    save_figure(figure, path)


def _shown(document: Document) -> list[Row]:
    """Return the rows of the figure, the slowest first."""
    rows = [row for row in document["rows"] if row["labels"]["model"] in ("teacher", SHOWN)]
    return sorted(rows, key=lambda row: -float(row["p50_ms"]))


def _panel(axes: Axes, network: str, document: Document, precisions: Sequence[str]) -> None:
    rows = _shown(document)
    for model in MODELS:
        _marks(axes, model, rows)
    axes.set_yticks(range(len(rows)), [_title(row["labels"]) for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.08)
    axes.set_xlim(right=4.5 * max(row["p50_ms"] for row in rows))  # space for the words
    plain_log_ticks(axes.xaxis)
    axes.tick_params(axis="x", labelsize=8)
    measured = {row["labels"]["precision"] for row in rows}
    missing = [precision for precision in precisions if precision not in measured]
    note = f"; {' and '.join(missing)} not measured" if missing else ""
    axes.set_xlabel(f"milliseconds per image, logarithmic{note}", fontsize=8.5)
    axes.set_title(f"{network_title(network)}, 70 % of the channels removed", fontsize=9)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _marks(axes: Axes, model: str, rows: Sequence[Row]) -> None:
    """Draw a model's medians with their intervals, and write latency and speed-up beside them."""
    colour, marker = MODELS[model]
    places = [y for y, row in enumerate(rows) if row["labels"]["model"].startswith(model)]
    medians = [rows[y]["p50_ms"] for y in places]
    ends = [rows[y]["intervals"]["p50"] for y in places]
    apart = [[p50 - end["low"] for p50, end in zip(medians, ends, strict=True)]]
    apart += [[end["high"] - p50 for p50, end in zip(medians, ends, strict=True)]]
    axes.errorbar(
        medians, places, xerr=apart, label=f"{model}: median with its 95 % interval", color=colour, marker=marker,
        markersize=4.5, linestyle="", capsize=4,
    )  # fmt: skip
    for y, p50 in zip(places, medians, strict=True):
        gain = rows[y]["speedup"]["value"] if rows[y]["speedup"] else 1.0  # the eager teacher is the baseline
        words = f"{p50:,.0f} ms, {gain:.1f}x"
        axes.annotate(words, (p50, y), (12, 0), textcoords="offset points", va="center", fontsize=8)


def network_title(name: str) -> str:
    """Return a network's name for people: "stylegan2-256" is "StyleGAN2, 256 px"."""
    kind, resolution, *part = name.split("-")
    return ", ".join([kind.replace("stylegan", "StyleGAN"), f"{resolution} px", *part])


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
    full = {name: document for name, document in found.items() if not name.endswith(("-quick", "-pair"))}
    draw(full or found, options.docs / "images" / "latency.png")


if __name__ == "__main__":
    main()
