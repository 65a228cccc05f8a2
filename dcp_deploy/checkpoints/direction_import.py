"""Directions that other tools write, to be imported: arrays in w of any length, without slots and without a unit.

What is read:

- one vector [w_dim] or [1, w_dim]: InterFaceGAN's boundaries (Shen et al. 2020) as ``.npy``, and the ``.pt`` of
  encoder4editing, PTI and others
- one vector for each slot, [num_ws, w_dim], [1, num_ws, w_dim] or [num_ws, 1, w_dim]
- GANSpace (Härkönen et al. 2020): ``comp`` [N, 1, w_dim] as ``.pt``, ``.pkl`` or ``.npz``, or ``lat_comp`` as its own
  ``.npz``, with the standard deviations ``std`` or ``lat_stdev`` [N]
- closed-form factorisation (SeFa, Shen and Zhou 2021) by rosinality's stylegan2-pytorch: the columns of ``eigvec``
- named vectors: a dictionary, ``.npz`` or ``.safetensors``
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..errors import InputError, UnknownFormatError, UsageError
from ..generators import GeneratorConfig
from .arrays import DIRECTIONS, ArrayFile, StoredArray, read_array_file
from .codes import CODE_NAMES, known_slots
from .pickles.values import printable

_COMPONENTS = {"comp": "std", "lat_comp": "lat_stdev"}
_READ = (
    "Give one of these: one vector [w] or [1, w] (InterFaceGAN), one for each slot [num_ws, w], GANSpace's comp, "
    "eigvec of rosinality's closed-form factorisation (SeFa), and named vectors."
)


@dataclass(frozen=True)
class ForeignDirections:
    """Directions as another tool wrote them, by name: float32 [w_dim], or [num_ws, w_dim] for a vector for each slot.

    ``layout`` says which tool's file it is. ``sigmas`` are the standard deviations in the file, by name, if it has any.
    """

    source: str
    layout: str
    vectors: Mapping[str, Tensor]
    sigmas: Mapping[str, float]


def layout_of(file: ArrayFile) -> str | None:
    """Name the layout of a file that can be imported; None for another file."""
    value = file.value
    if isinstance(value, StoredArray):
        slots = _slots(value.shape)
        several = "one direction, with a vector for each slot"
        return several if slots > 1 else "one direction, as InterFaceGAN saves it" if slots else None
    if not isinstance(value, dict) or file.is_network or set(value) & set(CODE_NAMES):
        return None
    if any(isinstance(value.get(key), StoredArray) for key in _COMPONENTS):
        return "components of GANSpace"
    if isinstance(value.get("eigvec"), StoredArray):
        return "factors of rosinality's closed-form factorisation (SeFa)"
    arrays = _arrays_in(value).values()
    return "named vectors" if arrays and all(_slots(one.shape) for one in arrays) else None


def not_directions(file: ArrayFile) -> UnknownFormatError:
    """Return the error for a file without directions that could be imported."""
    if isinstance(file.value, dict) and set(file.value) & set(CODE_NAMES):
        return UnknownFormatError(f"{file.source}: codes of images ({file}), not directions", _READ)
    return UnknownFormatError(f"{file.source}: no directions in {file}", _READ)


def _arrays_in(value: Mapping[str, object]) -> dict[str, StoredArray]:
    """Return the arrays of a dictionary, single numbers left out."""
    return {key: one for key, one in value.items() if isinstance(one, StoredArray) and one.shape}


def read_foreign_directions(
    path: str | os.PathLike[str], *, name: str | None = None, count: int | None = None
) -> ForeignDirections:
    """Return the directions of another tool's file, at most the first ``count`` of several. Executes nothing.

    A single direction is called ``name``, by default after the file. Several without names are numbered: "age0", "age1"
    with the name "age", by default "comp0" or "sefa0".

    Raises UnknownFormatError for another layout, InputError for values that are not finite, UsageError for a name where
    the file names several, and for a count that the file does not have; and what :func:`read_array_file` raises.
    """
    file = read_array_file(path)
    if DIRECTIONS in file.metadata:
        raise UsageError(f"{file.source} holds directions of dcp-deploy already", "Use it as it is, with --directions.")
    layout, value = layout_of(file), file.value
    if layout is None:
        raise not_directions(file)
    sigmas: list[float] = []
    if isinstance(value, StoredArray):
        vectors = {name or Path(file.source).stem: _squeezed(value)}
    elif key := next((key for key in _COMPONENTS if isinstance(value.get(key), StoredArray)), None):
        vectors = _numbered(name or "comp", _components(value[key]))
        deviations = value.get(_COMPONENTS[key])
        if isinstance(deviations, StoredArray) and deviations.shape == (len(vectors),):
            sigmas = deviations.tensor().tolist()
    elif isinstance(value.get("eigvec"), StoredArray):
        vectors = _numbered(name or "sefa", _columns(value["eigvec"]))
    else:
        vectors = _named(_arrays_in(value), name)
    kept = list(vectors)[:count]
    if count is not None and not 0 < count == len(kept):
        raise UsageError(
            f"--count {count}, but {file.source} has {len(vectors)} directions", "Choose a number up to it."
        )
    paired = dict(zip(vectors, sigmas, strict=False))
    return ForeignDirections(file.source, layout, {key: vectors[key] for key in kept}, paired)


def placed(
    foreign: ForeignDirections, name: str, config: GeneratorConfig, layers: tuple[int, int] | None
) -> tuple[Tensor, tuple[int, int]]:
    """Return a direction for a generator: its vector, and the first and last slot that it moves.

    The vector is [w_dim] of length 1; or one for each slot that it moves, [slots, w_dim], of root mean square length 1.
    Without ``layers`` it moves all slots, or those for which it has a vector that is not zero.
    Raises InputError for a vector of another width or number of slots, or zero; UsageError for impossible layers.
    """
    vector, last = foreign.vectors[name].double(), config.num_ws - 1
    if layers is not None and not 0 <= layers[0] <= layers[1] <= last:
        raise UsageError(f"--layers {layers[0]}-{layers[1]}", f"Give slots of this generator: 0 to {last}.")
    what = f"{foreign.source}: direction {printable(name)!r}"
    other = "Give directions of this generator, or of the teacher that it was made from."
    if vector.shape[-1] != config.w_dim:
        raise InputError(f"{what} has {vector.shape[-1]} numbers; this generator has w_dim {config.w_dim}", other)
    if vector.ndim == 2 and len(vector) != config.num_ws:
        raise InputError(
            f"{what} has vectors for {len(vector)} slots{known_slots(len(vector))}; this generator of "
            f"{config.resolution} px has {config.num_ws}",
            other,
        )
    if vector.ndim == 2:
        moved = vector.abs().amax(dim=1).nonzero().flatten().tolist()
        layers = layers or ((moved[0], moved[-1]) if moved else None)
        vector = vector if layers is None else vector[layers[0] : layers[1] + 1]
        if (vector == vector[0]).all():
            vector = vector[0]
    length = vector.norm() / (len(vector) ** 0.5 if vector.ndim == 2 else 1.0)
    if not length > 0:
        raise InputError(f"{what} is zero in the slots that it would move", "Give another file, or other --layers.")
    return (vector / length).float(), layers or (0, last)


# ---- layouts ----


def _slots(shape: tuple[int, ...]) -> int:
    """Return for how many slots an array has a vector, axes of length 1 left out; 0 if it is not a direction."""
    counts = [size for size in shape[:-1] if size != 1]
    return 0 if not shape or len(counts) > 1 else counts[0] if counts else 1


def _squeezed(stored: StoredArray) -> Tensor:
    """Return [w] or [slots, w]."""
    rows = stored.tensor().reshape(-1, stored.shape[-1])
    return rows[0] if len(rows) == 1 else rows


def _numbered(name: str, vectors: Tensor) -> dict[str, Tensor]:
    return {f"{name}{index}": vector for index, vector in enumerate(vectors)}


def _components(stored: StoredArray) -> Tensor:
    """Return components [N, 1, w], [N, w] or [N, slots, w] as [N, w] or [N, slots, w]."""
    if not 2 <= len(stored.shape) <= 3:
        raise UnknownFormatError(f"{stored.name} is {list(stored.shape)}; components [N, 1, w] are read", _READ)
    found = stored.tensor()
    return found[:, 0] if found.ndim == 3 and found.shape[1] == 1 else found


def _columns(stored: StoredArray) -> Tensor:
    if len(stored.shape) != 2:
        raise UnknownFormatError(
            f"{stored.name} is {list(stored.shape)}; directions as columns, [w, N], are read", _READ
        )
    return stored.tensor().T.contiguous()


def _named(arrays: Mapping[str, StoredArray], name: str | None) -> dict[str, Tensor]:
    if name is not None and len(arrays) > 1:
        shown = ", ".join(printable(key, 40) for key in list(arrays)[:8])
        raise UsageError(f"--name {name}, but the file names its directions: {shown}", "Leave --name out.")
    return {name or printable(key): _squeezed(stored) for key, stored in arrays.items()}
