"""Pictures of a generator: seeds or saved codes, mixed and edited, as one page, one file each, or an animation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checkpoints.codes import read_codes
from ..checkpoints.directions import Direction, check_directions, read_directions
from ..errors import UsageError
from ..export.runners.loading import load_runner
from ..export.runners.picture_files import (
    ANIMATIONS,
    PICTURES,
    check_size,
    picture_format,
    save_animation,
    save_picture,
)
from ..export.runners.runner import classes_of, latents_of
from ..export.runners.sampling import BATCH, COLUMNS, as_uint8, draw
from ..export.runners.synthesis import SynthesisRunner, load_synthesis
from ..generators import Generator
from ..progress import Progress, Reporter
from .editing import parse_edits
from .labels import Row, labelled_page

SEEDS = tuple(range(16))
FRAMES_PER_SEED = 25  # a second

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Mix:
    """Take the code of ``seed`` in these ``slots`` of ws (style mixing, Karras et al. 2019)."""

    seed: int
    slots: tuple[int, ...]


@dataclass(frozen=True)
class SampleConfig:
    """What to draw.

    ``seeds`` are drawn at every one of ``psis`` and of ``classes``; without ``classes``, a class-conditional generator
    draws a seed with class ``seed`` modulo the number of classes. ``codes`` is a file of codes to draw in place of
    seeds. ``mixes``, then ``edits`` along ``directions`` ("pc0=2"), change every code. ``interpolate`` names seeds, or
    rows of ``codes``, between which an animation of ``frames`` moves. ``each``: one file for each image, in a folder.
    ``network`` chooses among several generators of a checkpoint. None stands for the default: seeds 0 to 15, psi 1, 25
    frames for each seed of an animation, the moving average.
    """

    seeds: tuple[int, ...] | None = None
    psis: tuple[float, ...] | None = None
    classes: tuple[int, ...] | None = None
    codes: Path | None = None
    mixes: tuple[Mix, ...] = ()
    edits: tuple[str, ...] = ()
    directions: Path | None = None
    interpolate: tuple[int, ...] | None = None
    frames: int | None = None
    each: bool = False
    network: str | None = None

    def check(self) -> None:
        """Raise UsageError for values and combinations that cannot work with any model."""
        for given, flag in ((self.seeds, "--seeds"), (self.psis, "--psi"), (self.classes, "--class")):
            if self.codes is not None and given is not None:
                raise UsageError(f"{flag} and --codes", f"Omit {flag}: saved codes have their seed, psi and class.")
        if self.edits and self.directions is None:
            raise UsageError("--direction needs a file of directions", "Give it as --directions FILE.")
        if self.directions is not None and not self.edits:
            raise UsageError("--directions without --direction", "Name one: --direction NAME=STRENGTH.")
        if not all(math.isfinite(psi) for psi in self.psis or ()):
            raise UsageError(f"--psi {self.psis} holds a value that is not finite", "Write for example 0.5,0.7,1.")
        seeds = [*(self.seeds or ()), *(mix.seed for mix in self.mixes)]
        seeds += [] if self.codes is not None else list(self.interpolate or ())
        wrong = [seed for seed in seeds if not 0 <= seed < 2**32]
        if wrong:
            raise UsageError(f"seed {wrong[0]} is outside 0 .. 4294967295")
        self._check_animation()

    def _check_animation(self) -> None:
        if self.interpolate is None:
            if self.frames is not None:
                raise UsageError("--frames without --interpolate", "Name the seeds: --interpolate 1,2,3.")
            return
        for given, flag in ((self.seeds is not None, "--seeds"), (self.each, "--each")):
            if given:
                raise UsageError(f"{flag} and --interpolate", f"Omit {flag}: --interpolate names the seeds.")
        for values, flag in ((self.psis, "--psi"), (self.classes, "--class")):
            if values is not None and len(values) > 1:
                raise UsageError(f"{flag} has {len(values)} values, an animation one", f"Give one value of {flag}.")
        if len(self.interpolate) < 2:
            raise UsageError("--interpolate has one seed", "Give two or more: --interpolate 1,2,3.")
        if self.frames is not None and self.frames < len(self.interpolate):
            raise UsageError(
                f"--frames {self.frames} for {len(self.interpolate)} seeds", "Give at least one frame for each seed."
            )

    @property
    def needs_codes(self) -> bool:
        """Whether the pictures depend on more than seeds, psi and class."""
        return bool(self.codes is not None or self.mixes or self.edits or self.interpolate)


def check_out(config: SampleConfig, out: Path) -> None:
    """Raise UsageError if the suffix of ``out`` is not that of what is written, MissingCapabilityError as
    :func:`~.export.runners.picture_files.picture_format`."""
    if not config.each:
        picture_format(out, animated=config.interpolate is not None)
    elif out.suffix.lower() in {*PICTURES, *ANIMATIONS}:
        raise UsageError(f"--each writes a folder of PNG files, {out} is named as a file", f"Name it {out.stem}.")


def sample_file(
    model: Path, out: Path, config: SampleConfig | None = None, *, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Draw the pictures of ``config`` and write them to ``out``: a file, or with ``each`` a folder.

    Several images make a page with the seed above each column, and psi and class left of each row; one image is written
    as it is. Returns the number of images and the backend. Raises UsageError for what the model cannot do, and what
    reading the model, the codes and the directions raises.
    """
    config, reporter = config or SampleConfig(), reporter or Reporter()
    config.check()
    check_out(config, out)
    source = _open_source(model, config)
    with reporter.task("sample") as progress:
        if config.interpolate is not None:
            count = _animate(source, out, config, progress)
        elif config.each:
            count = _write_each(source, out, config, reporter, progress)
        else:
            count = _write_page(source, out, config, progress)
    return {"images": count, "backend": source.backend}


# ---- where images come from ----


@dataclass(frozen=True)
class _Source:
    """Generates images uint8 [N, H, W, 3] of columns (seeds, or rows of saved codes) at a psi with a class.

    ``columns``: all that there are by default. ``codes``: the synthesis network, if the images come from codes.
    """

    name: str
    backend: str
    image_size: tuple[int, int]
    c_dim: int
    columns: tuple[int, ...]
    draw: Callable[[Sequence[int], float, int | None], Images]
    codes: _Codes | None = None


@dataclass(frozen=True)
class _Codes:
    """Codes ``ws`` [N, num_ws, w_dim]: saved ones or those of seeds, mixed and edited."""

    synthesis: SynthesisRunner
    saved: Tensor | None
    mixes: tuple[Mix, ...]
    edits: Sequence[tuple[Direction, float]]

    @torch.inference_mode()
    def ws(self, columns: Sequence[int], psi: float, label: int | None) -> Tensor:
        ws = self._mapped(columns, psi, label) if self.saved is None else self.saved[list(columns)]
        for mix in self.mixes:
            ws[:, list(mix.slots)] = self._mapped([mix.seed], psi, label)[:, list(mix.slots)]
        for direction, steps in self.edits:
            ws = direction.move(ws, steps)
        return ws

    def images(self, ws: Tensor) -> Images:
        return as_uint8(self.synthesis(ws.numpy()))

    def _mapped(self, seeds: Sequence[int], psi: float, label: int | None) -> Tensor:
        network = cast(Generator, self.synthesis.source)
        device = network.mapping.w_avg.device
        z = torch.from_numpy(latents_of(seeds, network.config.z_dim)).to(device)
        c = classes_of(seeds if label is None else [label] * len(seeds), network.config.c_dim)
        labels = None if c is None else torch.from_numpy(c).to(device)
        return cast(Tensor, network.mapping(z, labels, psi=torch.full((len(z),), psi, device=device))).cpu()


def _open_source(model: Path, config: SampleConfig) -> _Source:
    columns = config.interpolate or config.seeds or SEEDS
    if config.needs_codes:
        synthesis = load_synthesis(model, network=config.network)
        codes = _open_codes(synthesis, config)
        if codes.saved is not None:
            columns = config.interpolate or tuple(range(len(codes.saved)))
            beyond = [row for row in columns if row >= len(codes.saved)]
            if beyond:
                raise UsageError(f"{config.codes} has no code {beyond[0]}", f"Choose from 0 to {len(codes.saved) - 1}.")
        c_dim = synthesis.source.config.c_dim if synthesis.source is not None else 0
        source = _Source(
            synthesis.name, synthesis.backend, synthesis.image_size, 0 if codes.saved is not None else c_dim, columns,
            lambda chosen, psi, label: codes.images(codes.ws(chosen, psi, label)), codes,
        )  # fmt: skip
    else:
        runner = load_runner(model, network=config.network)
        source = _Source(
            runner.name, runner.backend, runner.image_size, runner.c_dim, columns,
            lambda chosen, psi, label: draw(runner, chosen, psi=psi, label=label),
        )  # fmt: skip
    _check_classes(source, config)
    return source


def _open_codes(synthesis: SynthesisRunner, config: SampleConfig) -> _Codes:
    """Read the files of ``config``. UsageError if codes of seeds are wanted and the model has no mapping network."""
    if synthesis.source is None and (config.codes is None or config.mixes):
        flag = "--mix" if config.mixes else "--interpolate" if config.interpolate else "--direction"
        needs = f"{flag} needs codes of seeds, and {synthesis.name} has no mapping network that makes them"
        raise UsageError(needs, "Give the checkpoint that it was exported from, or only --codes FILE.")
    for mix in config.mixes:
        beyond = [slot for slot in mix.slots if slot >= synthesis.num_ws]
        if beyond:
            raise UsageError(
                f"--mix {mix.seed}@...: {synthesis.name} has no layer {beyond[0]}",
                f"Choose layers from 0 to {synthesis.num_ws - 1}.",
            )
    edits: list[tuple[Direction, float]] = []
    if config.directions is not None:
        edits = parse_edits(config.edits, read_directions(config.directions))
        check_directions({word: one for word, (one, _) in zip(config.edits, edits, strict=True)}, synthesis.config)
    saved = None if config.codes is None else read_codes(config.codes, synthesis.config)
    return _Codes(synthesis, saved, config.mixes, edits)


def _check_classes(source: _Source, config: SampleConfig) -> None:
    if config.classes is None:
        return
    if not source.c_dim:
        raise UsageError(f"--class: {source.name} is not class-conditional", "Omit --class.")
    wrong = [label for label in config.classes if label >= source.c_dim]
    if wrong:
        raise UsageError(
            f"--class {wrong[0]}: {source.name} has no such class", f"Choose from 0 to {source.c_dim - 1}."
        )


def _rows(config: SampleConfig) -> list[tuple[float, int | None]]:
    """Return psi and class of each row of a page: for each class, every psi."""
    return [(psi, label) for label in config.classes or (None,) for psi in config.psis or (1.0,)]


def _batches(columns: Sequence[int]) -> Iterator[Sequence[int]]:
    return (columns[start : start + BATCH] for start in range(0, len(columns), BATCH))


# ---- what is written ----


def _write_page(source: _Source, out: Path, config: SampleConfig, progress: Progress) -> int:
    columns, rows = source.columns, _rows(config)
    wide = COLUMNS if len(rows) == 1 else len(columns)  # a single row is broken into several
    per_page = len(columns) * len(rows)
    height, width = source.image_size
    check_size(out, width * min(wide, len(columns)), height * -(-per_page // wide))
    drawn: list[Row] = []
    for psi, label in rows:
        images = []
        for chosen in _batches(columns):
            images.append(source.draw(chosen, psi, label))
            progress(sum(len(row.images) for row in drawn) + sum(map(len, images)), per_page)
        whole = np.concatenate(images)
        if per_page == 1:
            save_picture(whole[0], out)
            return 1
        for start in range(0, len(columns), wide):
            shown = columns[start : start + wide]
            above = [_title(source, column, label) for column in shown] if len(rows) == 1 or not drawn else []
            drawn.append(Row(whole[start : start + wide], above, "" if config.codes else _side(config, psi, label)))
    save_picture(labelled_page(drawn), out)
    return per_page


def _title(source: _Source, column: int, label: int | None) -> str:
    """Return the words above an image: its seed and, where that decides it, its class."""
    if source.codes is not None and source.codes.saved is not None:
        return f"code {column}"
    return f"seed {column}\nclass {column % source.c_dim}" if source.c_dim and label is None else f"seed {column}"


def _side(config: SampleConfig, psi: float, label: int | None) -> str:
    """Return the words left of a row."""
    return f"psi {psi:g}" if label is None else f"class {label}\npsi {psi:g}"


def _write_each(source: _Source, folder: Path, config: SampleConfig, reporter: Reporter, progress: Progress) -> int:
    """Write seed0003.png, ...; with several classes or psis, seed0003-class1-psi0.7.png."""
    rows, done = _rows(config), 0
    names = {_file_name(config, column, psi, label) for psi, label in rows for column in source.columns}
    others = [path.name for path in folder.iterdir() if path.name not in names] if folder.is_dir() else []
    if others:  # they would be counted among the images, by the tools that such folders are for
        reporter.message(f"{folder} also holds {len(others)} other files, such as {min(others)}")
    for psi, label in rows:
        for chosen in _batches(source.columns):
            for column, image in zip(chosen, source.draw(chosen, psi, label), strict=True):
                save_picture(image, folder / _file_name(config, column, psi, label))
            done += len(chosen)
            progress(done, len(rows) * len(source.columns))
    return len(names)


def _file_name(config: SampleConfig, column: int, psi: float, label: int | None) -> str:
    name = f"{'seed' if config.codes is None else 'code'}{column:04d}"
    if config.classes is not None and len(config.classes) > 1:
        name += f"-class{label}"
    if config.psis is not None and len(config.psis) > 1:
        name += f"-psi{psi:g}"
    return f"{name}.png"


def _animate(source: _Source, out: Path, config: SampleConfig, progress: Progress) -> int:
    """Move in straight lines through w from each seed to the next, and from the last to the first."""
    assert source.codes is not None
    ((psi, label),) = _rows(config)
    keys = source.codes.ws(source.columns, psi, label)
    count = config.frames or FRAMES_PER_SEED * len(keys)
    check_size(out, *source.image_size[::-1], animated=True)
    images = source.codes.images

    def frames() -> Iterator[Images]:
        for chosen in _batches(range(count)):
            yield from images(between(keys, [frame / count for frame in chosen]))
            progress(chosen[-1] + 1, count)

    save_animation(frames(), out)
    return count


def between(keys: Tensor, shares: Sequence[float]) -> Tensor:
    """Return the codes at these shares, from 0 to below 1, of the closed way through ``keys`` [K, num_ws, w_dim]."""
    places = torch.tensor(shares, dtype=torch.float64) * len(keys)
    begin = places.floor().long()
    part = (places - begin).to(keys.dtype)[:, None, None]
    return torch.lerp(keys[begin], keys[(begin + 1) % len(keys)], part)
