"""Files of directions in w along which images are edited: safetensors with one named entry for each direction.

An entry is a vector [w_dim] that moves all slots from ``first`` to ``last`` alike, or [last - first + 1, w_dim], one
vector for each of these slots.
"""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ..errors import CorruptFileError, InputError, UnknownFormatError
from ..files import write_bytes
from ..generators import GeneratorConfig
from .arrays import DIRECTIONS, ArrayFile, read_array_file
from .direction_import import layout_of, not_directions
from .pickles.values import printable

_UNIT = 1e-3  # allowed deviation from length 1; rounding to half precision stays below it


@dataclass(frozen=True)
class Direction:
    """A direction: ``vector`` float32 [w_dim] of length 1, and the first and last slot of ``ws`` that it moves.

    A ``vector`` [last - first + 1, w_dim] has a row for each of these slots, with a root mean square length of 1.
    ``sigma`` is the standard deviation of w along the vector, above 0; for several rows, that of each, averaged as
    root mean square.
    """

    vector: Tensor
    layers: tuple[int, int]
    sigma: float

    def move(self, ws: Tensor, steps: float | Tensor) -> Tensor:
        """Return ``ws`` [B, num_ws, w_dim] moved by ``steps`` standard deviations, one number or one per row [B]."""
        first, last = self.layers
        moved = ws.clone()
        length = torch.as_tensor(steps, dtype=ws.dtype, device=ws.device).reshape(-1, 1, 1) * self.sigma
        moved[:, first : last + 1] += length * self.vector.to(ws)
        return moved


def save_directions(directions: Mapping[str, Direction], path: str | os.PathLike[str]) -> Path:
    """Write directions atomically."""
    about = {name: {"layers": list(one.layers), "sigma": one.sigma} for name, one in directions.items()}
    tensors = {name: one.vector.to("cpu", torch.float32).clone() for name, one in directions.items()}
    write_bytes(path, save(tensors, {DIRECTIONS: json.dumps(about)}))
    return Path(path)


def read_directions(path: str | os.PathLike[str]) -> dict[str, Direction]:
    """Return the directions of a file, in the order of its metadata.

    Raises InputError if the file does not exist, UnknownFormatError for other files, with the command that imports them
    if they are directions of another tool; CorruptFileError for vectors that are not unit vectors of one width, or
    metadata that does not fit them.
    """
    source = Path(path)
    if not source.is_file():
        raise InputError(f"{source} does not exist", "Make one with dcp-deploy directions TEACHER -o FILE.")
    file = read_array_file(source)
    if DIRECTIONS not in file.metadata:
        raise _foreign(file)
    vectors = {name: stored.load() for name, stored in file.value.items()}
    try:
        about = json.loads(file.metadata[DIRECTIONS])
        found = {str(name): _direction(vectors.pop(name), about[name]) for name in about}
        if vectors or not found or len({one.vector.shape[-1] for one in found.values()}) != 1:
            raise ValueError("names or widths do not agree")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        what = printable(str(error), 200)
        raise CorruptFileError(f"{source}: not usable directions: {what}", "Make the file again.") from error
    return found


def check_directions(directions: Mapping[str, Direction], config: GeneratorConfig) -> None:
    """Raise InputError unless all directions fit the width and the slots of a generator of this config."""
    for name, one in directions.items():
        width = one.vector.shape[-1]
        if width != config.w_dim or one.layers[1] >= config.num_ws:
            raise InputError(
                f"direction {name!r} has {width} numbers and moves slots {one.layers[0]} to {one.layers[1]}; "
                f"the generator has w_dim {config.w_dim} and {config.num_ws} slots",
                "Use directions of this generator, or of the teacher that it was made from.",
            )


def _foreign(file: ArrayFile) -> UnknownFormatError:
    layout = layout_of(file)
    if layout is None:
        return not_directions(file)
    command = f"dcp-deploy directions MODEL --import {shlex.quote(file.source)} -o directions.safetensors"
    return UnknownFormatError(f"{file.source}: {layout} ({file}), not yet imported", f"Import it first: {command}")


def _direction(vector: Tensor, about: Any) -> Direction:
    first, last = about["layers"]
    sigma = float(about["sigma"])
    if type(first) is not int or type(last) is not int or not 0 <= first <= last:
        raise ValueError(f"layers {first!r} to {last!r}")
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma {sigma}")
    if vector.dtype != torch.float32 or not vector.ndim or vector.shape[:-1] not in ((), (last - first + 1,)):
        raise ValueError("a vector that is not float32 [w_dim] or [slots, w_dim]")
    if not abs(float(vector.square().sum(dim=-1).mean().sqrt()) - 1.0) <= _UNIT:
        raise ValueError("a vector that is not of length 1")
    return Direction(vector, (first, last), sigma)
