"""Files of directions in w along which images are edited: safetensors with one named vector for each direction."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..errors import CorruptFileError, InputError, UnknownFormatError
from ..files import atomic_path
from ..generators import GeneratorConfig
from .native import opened_safetensors
from .pickles.values import printable

FORMAT = "dcp_deploy.directions"
"""The metadata key: a JSON object, name -> {"layers": [first, last], "sigma": number}."""
_UNIT = 1e-3  # allowed deviation from length 1; rounding to half precision stays below it


@dataclass(frozen=True)
class Direction:
    """A direction: ``vector`` float32 [w_dim] of length 1, and the first and last slot of ``ws`` that it moves.

    ``sigma`` is the standard deviation of w along the vector, above 0.
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
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={FORMAT: json.dumps(about)})
    return Path(path)


def read_directions(path: str | os.PathLike[str]) -> dict[str, Direction]:
    """Return the directions of a file, in the order of its metadata.

    Raises InputError if the file does not exist, UnknownFormatError for another safetensors file, CorruptFileError for
    vectors that are not unit vectors of one width, or metadata that does not fit them.
    """
    source = Path(path)
    if not source.is_file():
        raise InputError(f"{source} does not exist", "Make one with dcp-deploy directions TEACHER -o FILE.")
    with opened_safetensors(source) as stream:
        text = (stream.metadata() or {}).get(FORMAT)
        vectors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118  # not a mapping
    if text is None:
        raise UnknownFormatError(f"{source}: a safetensors file without {FORMAT} in its metadata", "Give another file.")
    try:
        about = json.loads(text)
        found = {str(name): _direction(vectors.pop(name), about[name]) for name in about}
        if vectors or not found or len({len(one.vector) for one in found.values()}) != 1:
            raise ValueError("names or widths do not agree")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        what = printable(str(error), 200)
        raise CorruptFileError(f"{source}: not usable directions: {what}", "Make the file again.") from error
    return found


def check_directions(directions: Mapping[str, Direction], config: GeneratorConfig) -> None:
    """Raise InputError unless all directions fit the width and the slots of a generator of this config."""
    for name, one in directions.items():
        if len(one.vector) != config.w_dim or one.layers[1] >= config.num_ws:
            raise InputError(
                f"direction {name!r} has {len(one.vector)} numbers and moves slots {one.layers[0]} to {one.layers[1]}; "
                f"the generator has w_dim {config.w_dim} and {config.num_ws} slots",
                "Use directions of this generator, or of the teacher that it was made from.",
            )


def _direction(vector: Tensor, about: Any) -> Direction:
    first, last = about["layers"]
    sigma = float(about["sigma"])
    if type(first) is not int or type(last) is not int or not 0 <= first <= last:
        raise ValueError(f"layers {first!r} to {last!r}")
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma {sigma}")
    if vector.dtype != torch.float32 or vector.ndim != 1 or not abs(float(vector.norm()) - 1.0) <= _UNIT:
        raise ValueError("a vector that is not float32 [w_dim] of length 1")
    return Direction(vector, (first, last), sigma)
