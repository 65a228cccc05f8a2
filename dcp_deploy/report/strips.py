"""The image grids of a run, cut into rows, so that the same seed of all models stands in one column."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .run_directory import Grid, RunDirectory, Samples

LARGEST = 256  # pixels of an image's width in the page; larger ones are reduced, and lie whole in grids/
_GAINS = (1, 2, 4, 8, 16)
_TITLES = {
    "teacher": "Teacher",
    "student": "Student",
    "difference": "Difference",
    "pruned": "Pruned, before distillation",
    "real": "Images of the data set (not by seed)",
}


@dataclass(frozen=True)
class Strip:
    """One row of images of one model, as a data URI."""

    model: str
    title: str
    uri: str
    width: int
    height: int
    alt: str


@dataclass(frozen=True)
class Block:
    """Strips of the same seeds, one below the other; without seeds the strips are whole grids."""

    seeds: Sequence[int]
    strips: Sequence[Strip]


def blocks(run: RunDirectory) -> list[Block]:
    """Return the grids of a run, cut by rows of seeds, with the difference of teacher and student."""
    samples = run.samples
    pictures: dict[str, Image.Image] = {
        name: _open(run.grids[name]) for name in ("teacher", "student", "pruned") if name in run.grids
    }
    titles = dict(_TITLES)
    if (found := _difference(pictures)) is not None:
        picture, gain = found
        titles["difference"] = f"Difference of teacher and student, × {gain}"
        pictures["difference"] = picture
    pictures = {name: pictures[name] for name in titles if name in pictures}
    made = _cut(pictures, samples, titles)
    if "real" in run.grids:
        made.append(Block((), [_strip("real", _open(run.grids["real"]), titles["real"], samples.columns, ())]))
    return made


def side_by_side(runs: Mapping[str, RunDirectory]) -> tuple[list[Block], list[str]]:
    """Return the images of several students, and of every different teacher, by rows of the same seeds.

    Only images with the seeds, the psi and the size of the first run that has some are shown. The second list names the
    runs whose student is not.
    """
    first = next((run for run in runs.values() if "student" in run.grids), None)
    if first is None:
        return [], list(runs)
    size = _size(first, "student")
    shown = {name: run for name, run in runs.items() if run.samples == first.samples}
    teachers: dict[bytes, str] = {}
    for name, run in shown.items():
        if _size(run, "teacher") == size:
            teachers.setdefault(run.grids["teacher"].png, name)
    # A key that no run has as its name.
    pictures = {f"teacher\0{name}": _open(runs[name].grids["teacher"]) for name in teachers.values()}
    titles = {key: f"Teacher of {name}" for key, name in zip(pictures, teachers.values(), strict=True)}
    if len(titles) == 1:
        titles = dict.fromkeys(titles, _TITLES["teacher"])
    students = [name for name, run in shown.items() if _size(run, "student") == size]
    pictures |= {name: _open(runs[name].grids["student"]) for name in students}
    titles |= {name: name for name in students}
    return _cut(pictures, first.samples, titles), [name for name in runs if name not in students]


def _size(run: RunDirectory, model: str) -> tuple[int, int] | None:
    grid = run.grids.get(model)
    return None if grid is None else (grid.width, grid.height)


def _cut(pictures: Mapping[str, Image.Image], samples: Samples, titles: Mapping[str, str]) -> list[Block]:
    if not pictures:
        return []
    seeds, columns = samples.seeds, min(samples.columns, len(samples.seeds))
    rows = -(-len(seeds) // columns)
    if any(picture.width % columns or picture.height % rows for picture in pictures.values()):  # made by someone else
        return [Block((), [_strip(name, picture, titles[name], columns, ()) for name, picture in pictures.items()])]
    return [
        Block(
            part,
            [_strip(name, _row(whole, row, rows), titles[name], columns, part) for name, whole in pictures.items()],
        )
        for row in range(rows)
        if (part := seeds[row * columns : (row + 1) * columns])
    ]


def _row(picture: Image.Image, row: int, rows: int) -> Image.Image:
    height = picture.height // rows
    return picture.crop((0, row * height, picture.width, (row + 1) * height))


def _strip(model: str, picture: Image.Image, title: str, columns: int, seeds: Sequence[int]) -> Strip:
    factor = -(-picture.width // (columns * LARGEST))
    if factor > 1:
        picture = picture.reduce(factor)
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    uri = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
    alt = f"{title}, seeds {seeds[0]} to {seeds[-1]}" if seeds else title
    return Strip(model, title, uri, picture.width, picture.height, alt)


def _open(grid: Grid) -> Image.Image:
    with Image.open(io.BytesIO(grid.png), formats=["PNG"]) as picture:
        return picture.convert("RGB")


def _difference(pictures: Mapping[str, Image.Image]) -> tuple[Image.Image, int] | None:
    """Return |teacher - student|, multiplied so that it can be seen, and the factor; None without both."""
    teacher, student = pictures.get("teacher"), pictures.get("student")
    if teacher is None or student is None or teacher.size != student.size:
        return None
    apart = np.abs(np.asarray(teacher, dtype=np.int16) - np.asarray(student, dtype=np.int16))
    high = float(np.quantile(apart, 0.99))
    gain = max((gain for gain in _GAINS if gain * high <= 255), default=1)
    return Image.fromarray(np.minimum(apart * gain, 255).astype(np.uint8)), gain
