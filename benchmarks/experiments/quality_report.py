"""Tables and figures of the quality experiment, from the files of its cells.

    python -m dcp_deploy.benchmarks.experiments.quality_report DIR --docs docs

writes the tables into quality.md, between its markers, the final FID as images/quality.png and the way to it as
images/quality-curves.png. Those of another teacher go into photo-teacher.md and images/photographs.png. Cells of a
recipe with a discriminator have markers and a figure of their own. For another teacher it also shows images of the
students.
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
from PIL import Image

from ...efforts import CHANGES, REFINE, SCORE
from ...errors import InputError
from ...files import read_json
from .pages import image_rows, panels, plain_log_ticks, rewrite, save_figure, text_table
from .quality import Cell

COLUMNS = {
    "fid": "FID",
    "recall": "recall",
    "coverage": "coverage",
    "mode_coverage": "mode coverage",
    "rare_recall": "rare-factor recall",
    "seed_diversity": "intra-seed diversity",
    "l1_to_teacher": "L1 to the teacher",
}
"""The figures of a table and their headings. Each subject of the experiment has some of them."""
DEMO = ("quality.md", "quality", "FID")
"""Page, figure and name of the distance of the demo's experiment."""
ELSEWHERE = ("photo-teacher.md", "photographs", "FD-EfficientNet")
"""The same of an experiment on another teacher."""
PLAIN = ("diversity", "none")
"""DCP-GAN's own method, which the others are compared with."""
DEFAULT = (SCORE, REFINE)
"""What ``build`` does by default, likewise."""
MARKERS = {"none": ("#56606b", "o"), "svs": ("#d55e00", "^"), "reconstruct": ("#0072b2", "s")}
"""Colour and marker by refinement; the colours differ for any colour vision."""

Combination = tuple[str, str]
Curves = dict[int, list[dict[str, float]]]
"""Figures at each measurement, by seed."""
Group = dict[Combination, Curves]
"""Curves of one ratio by (score, refinement)."""
Ends = Mapping[float, Mapping[Combination, tuple[float, float]]]
"""By ratio and combination: mean and standard deviation over seeds."""


def load_cells(directory: Path, seeds: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """Return all finished cells, ordered by file name, or those of some seeds alone.

    Raises InputError when there are none or their settings differ.
    """
    read = {path: read_json(path) for path in sorted((directory / "cells").glob("*.json"))}
    read = {path: cell for path, cell in read.items() if seeds is None or cell["cell"]["seed"] in seeds}
    paths, found = [*read], [*read.values()]
    if not found:
        remedy = "Run: python -m dcp_deploy.benchmarks.experiments.quality --out DIR"
        raise InputError(f"there are no cells in {directory}", remedy)
    for path, cell in zip(paths, found, strict=True):
        if cell["settings"] != found[0]["settings"]:
            remedy = "Keep each length of training in its own DIR."
            raise InputError(f"{path} has other settings than {paths[0]}", remedy)
    return found


def by_ratio(found: Iterable[Mapping[str, Any]]) -> dict[float, Group]:
    """Return the curves by ratio, in rising order."""
    groups: dict[float, Group] = defaultdict(lambda: defaultdict(dict))
    for document in found:
        cell = document["cell"]
        groups[cell["ratio"]][cell["score"], cell["refine"]][cell["seed"]] = document["curve"]
    return {ratio: dict(group) for ratio, group in sorted(groups.items())}


def values_at(curves: Mapping[int, Sequence[Mapping[str, float]]], name: str, place: int) -> NDArray[np.float64]:
    """Return one figure at the ``place``-th measurement, an entry per seed in rising order."""
    return np.array([curves[seed][place][name] for seed in sorted(curves)])


def reached(curve: Sequence[Mapping[str, float]], fid: float) -> float:
    """Return the steps after which a curve's FID is first at most ``fid``, by linear interpolation; inf if never."""
    if curve[0]["fid"] <= fid:
        return float(curve[0]["step"])
    for before, after in itertools.pairwise(curve):
        if after["fid"] <= fid:
            share = (before["fid"] - fid) / (before["fid"] - after["fid"])
            return float(before["step"] + share * (after["step"] - before["step"]))
    return float("inf")


def report(found: Sequence[Mapping[str, Any]], teacher: Mapping[str, float]) -> str:
    """Return all tables as Markdown."""
    settings, environment = found[0]["settings"], found[0]["environment"]
    device = environment["gpu"] or environment["cpu"]
    latents = f"scores from {settings['score_latents']} latents"
    if "change_latents" in settings:
        latents += f" ({' and '.join(CHANGES)} from {settings['change_latents']})"
    lines = [
        f"{len(found)} students, {settings['steps']} steps of {settings['recipe']['batch']} images each, "
        f"{settings['samples']} images per measurement, {latents}. Measured on "
        f"{device}, torch {environment['packages']['torch']}, Python {environment['python']}. "
        "Mean ± standard deviation over seeds; the last column says how many.",
        "",
    ]
    if "features" in settings:
        lines[0] += f" The FID is {ELSEWHERE[-1]}."
    for ratio, group in by_ratio(found).items():
        lines += [f"### {ratio:.0%} of the channels removed", "", "At the end:", ""]
        lines += [*_table(group, -1, teacher), "", "Right after pruning and refinement, before training:", ""]
        lines += [*_table(group, 0, None), "", *_differences(group), *_against_default(group), *_speeds(group)]
    return "\n".join(lines).rstrip() + "\n"


def _table(group: Group, place: int, teacher: Mapping[str, float] | None) -> list[str]:
    names, rows = _measured(group, COLUMNS), []
    if teacher is not None:
        rows.append(["*teacher*", "", *(f"{teacher[name]:.3f}" if name in teacher else "" for name in names), ""])
    for (score, refine), curves in group.items():
        values = [_spread(values_at(curves, name, place)) for name in names]
        rows.append([score, refine, *values, str(len(curves))])
    return text_table(["score", "refinement", *(COLUMNS[name] for name in names), "seeds"], rows)


def _measured(group: Group, names: Iterable[str]) -> list[str]:
    """Return those of the figures that the curves have."""
    curves = next(iter(group.values()))
    return [name for name in names if name in next(iter(curves.values()))[-1]]


def _differences(group: Group) -> list[str]:
    """Compare diversity scores with the other scores, seed by seed."""
    names = _measured(group, ("fid", "recall", "mode_coverage", "rare_recall"))
    rows = []
    for (score, refine), curves in group.items():
        differences, seeds = _paired(group.get(("diversity", refine), {}), curves, names)
        if score != "diversity" and seeds:
            rows.append([score, refine, *differences])
    if not rows:
        return []
    return [
        "Diversity less another score, paired by seed, at the end (FID: negative is better, else positive):", "",
        *text_table(["against", "refinement", *(COLUMNS[name] for name in names)], rows), "",
    ]  # fmt: skip


def _against_default(group: Group) -> list[str]:
    """Compare every combination with the default, seed by seed."""
    names = _measured(group, ("fid", "recall", "mode_coverage", "rare_recall", "l1_to_teacher"))
    rows = []
    for combination, curves in group.items():
        differences, seeds = _paired(curves, group.get(DEFAULT, {}), names)
        if combination != DEFAULT and seeds:
            rows.append([*combination, *differences, str(seeds)])
    if not rows:
        return []
    return [
        f"Each combination less the default of build, {SCORE} with {REFINE}, paired by seed, at the end (FID and L1: "
        "negative is better, else positive):", "",
        *text_table(["score", "refinement", *(COLUMNS[name] for name in names), "seeds"], rows), "",
    ]  # fmt: skip


def _paired(ours: Curves, theirs: Curves, names: Sequence[str]) -> tuple[list[str], int]:
    """Return ours less theirs at the end, over the seeds that both have, and how many those are."""
    seeds = ours.keys() & theirs.keys()
    if not seeds:
        return [], 0
    a, b = ({seed: curves[seed] for seed in seeds} for curves in (ours, theirs))
    return [_spread(values_at(a, name, -1) - values_at(b, name, -1)) for name in names], len(seeds)


def _speeds(group: Group) -> list[str]:
    """Report how soon each combination reaches the FID at which plain DCP ends, if it was measured in between."""
    plain = group.get(PLAIN)
    if plain is None or len(next(iter(plain.values()))) < 3:
        return []
    goal, steps = float(values_at(plain, "fid", -1).mean()), next(iter(plain.values()))[-1]["step"]
    rows = []
    for (score, refine), curves in group.items():
        shares = np.array([reached(curve, goal) / steps for curve in curves.values()])
        finite = shares[np.isfinite(shares)]
        share = _spread(finite) if len(finite) else "-"
        rows.append([score, refine, share, f"{len(finite)} of {len(shares)} seeds"])
    return [
        f"Steps until the FID is {goal:.2f}, where diversity without refinement ends, as a share of all {steps}:", "",
        *text_table(["score", "refinement", "share of the steps", "reached by"], rows), "",
    ]  # fmt: skip


def _spread(values: NDArray[np.float64]) -> str:
    digits = 2 if np.abs(values).max() >= 1 else 3
    mean = f"{values.mean():.{digits}f}"
    return f"{mean} ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else mean


def ends(found: Iterable[Mapping[str, Any]]) -> Ends:
    """Return the FID of every combination after training."""
    return {
        ratio: {name: _mean_and_spread(values_at(curves, "fid", -1)) for name, curves in group.items()}
        for ratio, group in by_ratio(found).items()
    }


def _mean_and_spread(values: NDArray[np.float64]) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0


def draw(found: Ends, path: Path, distance: str = "FID") -> None:
    """Draw the distance after training, a panel per ratio: a row per score, a marker per refinement."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = panels(len(found), 5.2, 3.4, sharey=True)
    scores = sorted({score for group in found.values() for score, _ in group})  # the rows of all panels
    for axis, (ratio, group) in zip(axes, found.items(), strict=True):
        refinements = list(dict.fromkeys(refine for _, refine in group))
        for place, refine in enumerate(refinements):
            colour, marker = MARKERS.get(refine, ("#333333", "D"))
            shown = [(row, *group[score, refine]) for row, score in enumerate(scores) if (score, refine) in group]
            rows, means, spreads = zip(*shown, strict=True)
            shift = 0.22 * (place - (len(refinements) - 1) / 2)  # keeps markers of one row apart
            axis.errorbar(
                means, [row + shift for row in rows], xerr=spreads, label=refine, color=colour, marker=marker,
                markersize=7, linestyle="", capsize=3, elinewidth=1.4,
            )  # fmt: skip
        axis.set_yticks(range(len(scores)), labels=scores)
        axis.set(
            title=f"{ratio:.0%} of the channels removed", xlabel=f"{distance} after training, lower is better", xlim=0
        )
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axis.grid(axis="x", alpha=0.3)
        axis.set_axisbelow(True)
    axes[0].invert_yaxis()
    axes[0].set_ylabel("channel score")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, title="refinement", loc="outside right center", frameon=False)
    save_figure(figure, path)


def draw_curves(found: Iterable[Mapping[str, Any]], path: Path, distance: str = "FID") -> None:
    """Draw distance and recall over the steps of the lowest ratio, a line for each score and a band for its seeds.

    Of all combinations those with the default refinement are shown, and plain DCP beside them.
    """
    ratio, group = next(iter(by_ratio(found).items()))
    shown = {name: curves for name, curves in group.items() if name[1] == REFINE or name == PLAIN}
    figure, axes = panels(2, 4.8, 3.6)
    for axis, name, heading in zip(axes, ("fid", "recall"), (f"{distance}, lower is better", "recall"), strict=True):
        for (score, refine), curves in shown.items():
            every = np.array([[point[name] for point in curve] for curve in curves.values()])  # [seeds, points]
            steps = [point["step"] for point in next(iter(curves.values()))]
            (line,) = axis.plot(
                steps, every.mean(axis=0), label=f"{score}, {refine}", linestyle="-" if refine == REFINE else "--"
            )
            axis.fill_between(steps, every.min(axis=0), every.max(axis=0), color=line.get_color(), alpha=0.15)
        axis.set(title=f"{ratio:.0%} of the channels removed", xlabel="steps", ylabel=heading)
        axis.grid(alpha=0.3)
    axes[0].set_yscale("log")
    plain_log_ticks(axes[0].yaxis)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    save_figure(figure, path)


def draw_students(directory: Path, found: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw images of the same latents by the teacher and by one student of each combination, a labelled row each."""
    first = {(one["cell"]["score"], one["cell"]["refine"]): one["cell"] for one in reversed(found)}  # the lowest seed
    names = {"teacher": "teacher"} | {"\n".join(of): Cell(**cell).name for of, cell in first.items()}
    rows = {}
    for label, name in names.items():
        with Image.open(directory / "pictures" / f"{name}.png") as picture:
            rows[label] = np.asarray(picture.convert("RGB"))
    save_figure(image_rows(rows, 8.0, 0.74, "nearest"), path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and the figure of one experiment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="--out of the experiment")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where quality.md is (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", help="only these: those that nothing was tuned on (all)")
    options = parser.parse_args(arguments)
    found = load_cells(options.directory, options.seeds)
    teacher = read_json(options.directory / "teacher.json")["figures"]
    elsewhere = "teacher" in found[0]["settings"]
    page, figure, distance = ELSEWHERE if elsewhere else DEMO
    topic = "experiment"
    if found[0]["settings"]["recipe"]["gan"]:
        topic, figure = f"{topic} with a discriminator", f"{figure}-discriminator"
    rewrite(options.docs / page, topic, report(found, teacher))
    draw(ends(found), options.docs / "images" / f"{figure}.png", distance)
    if len(found[0]["curve"]) > 2:  # measured on the way, not only before and after
        draw_curves(found, options.docs / "images" / f"{figure}-curves.png", distance)
    if elsewhere:
        draw_students(options.directory, found, options.docs / "images" / f"{figure}-students.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
