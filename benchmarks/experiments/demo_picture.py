"""The picture of the README: the same seeds by teacher and student, and their difference, with labels.

    python -m dcp_deploy.benchmarks.experiments.demo_picture build/demo --docs docs

reads the grids of a finished build and writes images/demo.png.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import InputError
from ...export.runners.sampling import COLUMNS
from .pages import image_rows, save_figure

GAIN = 2  # of the difference, so that it can be seen

Row = NDArray[np.uint8]
"""Images of ``COLUMNS`` seeds side by side [H, COLUMNS W, 3]."""


def first_row(path: Path) -> Row:
    """Return the first row of a grid of two. InputError without the file."""
    if not path.is_file():
        raise InputError(f"{path} does not exist", "Run: dcp-deploy build --dataset demo")
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    return pixels[: len(pixels) // 2]


def draw(rows: Mapping[str, Row], path: Path) -> None:
    """Draw labelled rows, with seeds 0, 1, ... above, and the difference of the first two below."""
    first, second = (row.astype(np.int16) for row in rows.values())
    shown = {**rows, f"difference\n× {GAIN}": np.minimum(GAIN * np.abs(first - second), 255).astype(np.uint8)}
    figure = image_rows(shown, 8.8, 1.16, "bilinear")
    top, width = figure.axes[0], first.shape[1] / COLUMNS
    top.xaxis.tick_top()
    centres = [(seed + 0.5) * width for seed in range(COLUMNS)]
    top.set_xticks(centres, [f"seed {seed}" for seed in range(COLUMNS)], fontsize=9)
    top.tick_params(length=0)
    save_figure(figure, path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the picture of one run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a finished run directory of the demo")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="writes images/demo.png in it (%(default)s)")
    options = parser.parse_args(arguments)
    rows = {model: first_row(options.run / "grids" / f"{model}.png") for model in ("teacher", "student")}
    draw(rows, options.docs / "images" / "demo.png")


if __name__ == "__main__":
    main()
