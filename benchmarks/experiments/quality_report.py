"""Tables and a figure of the quality experiment, from the files of its cells.

    python -m dcp_deploy.benchmarks.experiments.quality_report DIR --docs docs

writes the tables into quality.md, between its two marks, and the curves as images/quality.png. What stands outside the
marks is left alone: conclusions are for people to write.
"""

from __future__ import annotations

import argparse
import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...files import atomic_path, read_json
from ..results import between, markdown_head, markdown_row

COLUMNS = {
    "fid": "FID",
    "recall": "recall",
    "coverage": "coverage",
    "mode_coverage": "mode coverage",
    "rare_recall": "rare-factor recall",
    "l1_to_teacher": "L1 to the teacher",
}
BEGIN, END = "<!-- figures of the experiment: begin -->", "<!-- figures of the experiment: end -->"
PLAIN = ("diversity", "none")
"""DCP-GAN's own method, which others are held against."""

Combination = tuple[str, str]
Group = dict[Combination, dict[int, list[dict[str, float]]]]
"""Curves of one ratio by (score, refinement), then by seed."""


def load_cells(directory: Path) -> list[dict[str, Any]]:
    """All finished cells, in a fixed order. Raises InputError when there are none, or not all of the same settings."""
    paths = sorted((directory / "cells").glob("*.json"))
    found = [read_json(path) for path in paths]
    if not found:
        raise InputError(
            f"there are no cells in {directory}", "run: python -m dcp_deploy.benchmarks.experiments.quality --out DIR"
        )
    for path, cell in zip(paths, found, strict=True):
        if cell["settings"] != found[0]["settings"]:
            raise InputError(
                f"{path} has other settings than {paths[0]}", "keep each length of training in its own DIR"
            )
    return found


def by_ratio(found: Iterable[Mapping[str, Any]]) -> dict[float, Group]:
    """Curves by ratio."""
    groups: dict[float, Group] = defaultdict(lambda: defaultdict(dict))
    for document in found:
        cell = document["cell"]
        groups[cell["ratio"]][cell["score"], cell["refine"]][cell["seed"]] = document["curve"]
    return {ratio: dict(group) for ratio, group in sorted(groups.items())}


def values_at(curves: Mapping[int, Sequence[Mapping[str, float]]], name: str, place: int) -> NDArray[np.float64]:
    """One figure at the ``place``-th measurement, by seed."""
    return np.array([curves[seed][place][name] for seed in sorted(curves)])


def reached(curve: Sequence[Mapping[str, float]], fid: float) -> float:
    """Steps after which a curve's FID first is at most ``fid``, in straight lines in between; inf if never."""
    if curve[0]["fid"] <= fid:
        return float(curve[0]["step"])
    for before, after in itertools.pairwise(curve):
        if after["fid"] <= fid:
            share = (before["fid"] - fid) / (before["fid"] - after["fid"])
            return float(before["step"] + share * (after["step"] - before["step"]))
    return float("inf")


def report(found: Sequence[Mapping[str, Any]], teacher: Mapping[str, float]) -> str:
    """All tables, as Markdown."""
    settings, environment = found[0]["settings"], found[0]["environment"]
    device = environment["gpu"] or environment["cpu"]
    lines = [
        f"{len(found)} students, {settings['steps']} steps of {settings['recipe']['batch']} images each, "
        f"{settings['samples']} images per measurement, scores from {settings['score_latents']} latents. Measured on "
        f"{device}, torch {environment['packages']['torch']}, Python {environment['python']}. "
        "Mean ± standard deviation over seeds; the last column says how many.",
        "",
    ]
    for ratio, group in by_ratio(found).items():
        lines += [f"### {ratio:.0%} of the channels removed", "", "At the end:", ""]
        lines += [*_table(group, -1, teacher), "", "Right after pruning and refinement, before training:", ""]
        lines += [*_table(group, 0, None), "", *_differences(group), *_speeds(group)]
    return "\n".join(lines).rstrip() + "\n"


def _table(group: Group, place: int, teacher: Mapping[str, float] | None) -> list[str]:
    lines = markdown_head("score", "refinement", *COLUMNS.values(), "seeds")
    if teacher is not None:
        values = [f"{teacher[name]:.3f}" if name in teacher else "" for name in COLUMNS]
        lines.append(markdown_row(["*teacher*", "", *values, ""]))
    for (score, refine), curves in group.items():
        values = [_spread(values_at(curves, name, place)) for name in COLUMNS]
        lines.append(markdown_row([score, refine, *values, str(len(curves))]))
    return lines


def _differences(group: Group) -> list[str]:
    """Plain diversity scores against the other scores, seed by seed."""
    names = ("fid", "recall", "mode_coverage", "rare_recall")
    lines = ["Diversity less another score, paired by seed, at the end (FID: negative is better, else positive):", ""]
    lines += markdown_head("against", "refinement", *(COLUMNS[name] for name in names))
    for (score, refine), curves in group.items():
        mine = group.get(("diversity", refine))
        seeds = sorted(set(curves) & set(mine or ()))
        if score == "diversity" or mine is None or not seeds:
            continue
        ours, theirs = ({seed: part[seed] for seed in seeds} for part in (mine, curves))
        pairs = [values_at(ours, name, -1) - values_at(theirs, name, -1) for name in names]
        lines.append(markdown_row([score, refine, *map(_spread, pairs)]))
    return [*lines, ""]


def _speeds(group: Group) -> list[str]:
    """How soon each combination is where plain DCP ends."""
    plain = group.get(PLAIN)
    if plain is None:
        return []
    goal, steps = float(values_at(plain, "fid", -1).mean()), next(iter(plain.values()))[-1]["step"]
    lines = [f"Steps until the FID is {goal:.2f}, where diversity without refinement ends, as a share of all {steps}:"]
    lines += ["", *markdown_head("score", "refinement", "share of the steps", "reached by")]
    for (score, refine), curves in group.items():
        shares = np.array([reached(curve, goal) / steps for curve in curves.values()])
        there = shares[np.isfinite(shares)]
        lines.append(
            markdown_row([score, refine, _spread(there) if len(there) else "-", f"{len(there)} of {len(shares)} seeds"])
        )
    return [*lines, ""]


def _spread(values: NDArray[np.float64]) -> str:
    digits = 2 if np.abs(values).max() >= 1 else 3
    mean = f"{values.mean():.{digits}f}"
    return f"{mean} ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else mean


def insert(text: str, tables: str) -> str:
    """``text`` with ``tables`` between the marks, or at its end with marks of their own."""
    if BEGIN in text and END in text:
        return between(text, BEGIN, END, tables)
    return f"{text.rstrip()}\n\n{BEGIN}\n\n{tables}\n{END}\n".lstrip()


def draw(found: Sequence[Mapping[str, Any]], path: Path) -> None:
    """FID over steps, one panel per ratio: colours are scores, lines refinements, bands the range over seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = by_ratio(found)
    colours = {"random": "#8b95a1", "weight-out": "#d98a3d", "gradient": "#4a9d6f", "diversity": "#3558d4"}
    styles: dict[str, Any] = {"none": "-", "svs": ":", "reconstruct": "--"}
    figure = Figure(figsize=(5.2 * len(groups), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(groups), squeeze=False, sharey=True)[0]
    for axis, (ratio, group) in zip(axes, groups.items(), strict=True):
        for (score, refine), curves in group.items():
            steps = [entry["step"] for entry in next(iter(curves.values()))]
            fids = np.array([[entry["fid"] for entry in curve] for curve in curves.values()])
            colour, style = colours.get(score, "#333333"), styles.get(refine, "-.")
            axis.plot(steps, fids.mean(axis=0), style, color=colour, linewidth=1.6, label=f"{score}, {refine}")
            axis.fill_between(steps, fids.min(axis=0), fids.max(axis=0), color=colour, alpha=0.08, linewidth=0)
        axis.set(title=f"{ratio:.0%} of the channels removed", xlabel="steps", yscale="log")
        axis.grid(alpha=0.25, which="both")
    axes[0].set_ylabel("FID (avatar reader)")
    axes[-1].legend(fontsize=7, ncols=2)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m dcp_deploy.benchmarks.experiments.quality_report", description=__doc__
    )
    parser.add_argument("directory", type=Path, help="--out of the experiment")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where quality.md is (%(default)s)")
    options = parser.parse_args(arguments)
    found = load_cells(options.directory)
    teacher = read_json(options.directory / "teacher.json")["figures"]
    page = options.docs / "quality.md"
    text = page.read_text(encoding="utf-8") if page.exists() else "# Quality: scores and refinements compared\n"
    with atomic_path(page) as temporary:
        temporary.write_text(insert(text, report(found, teacher)), encoding="utf-8")
    draw(found, options.docs / "images" / "quality.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
