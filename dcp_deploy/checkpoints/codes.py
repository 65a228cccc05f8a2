"""Codes in w of single images, as projectors and encoders write them: ``ws`` to generate or edit those images from.

What is read, where B is the number of images:

- ours: ``ws.safetensors`` of ``dcp-deploy project``, [B, num_ws, w_dim] by model; that of "model" is taken
- ``projected_w.npz`` of NVIDIA's projectors (stylegan2-ada-pytorch, stylegan3): ``w`` [1, num_ws, w_dim]
- ``0.pt`` of PTI (danielroich/PTI): a tensor [1, num_ws, w_dim] or [1, 1, w_dim]
- rosinality's projector (stylegan2-pytorch): for each image file a dictionary with ``latent``, [w_dim] or
  [num_ws, w_dim]; its noise maps are not used
- one array, or one for each image: ``.npy``, ``.npz``, ``.pt``, ``.pkl``, ``.safetensors``
"""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, UnknownFormatError
from ..generators import GeneratorConfig
from .arrays import DIRECTIONS, ArrayFile, StoredArray, read_array_file

CODE_NAMES = ("ws", "w", "w_plus", "wplus", "w_pivot", "latent", "latents", "codes", "model")
"""Names under which codes are kept, in the order of preference; the rest of such a file is not codes."""
DIRECTION_NAMES = ("comp", "lat_comp", "eigvec")
"""Names under which GANSpace and SeFa keep directions, which have the shape of codes."""
_LEAST_SLOTS = 8  # of 32 px, the smallest images that generators are published for
_STYLEGAN3_SLOTS = 16  # of all published StyleGAN3 networks
_READ = (
    "Give one of these: codes [w], [B, w], [num_ws, w] or [B, num_ws, w] as .npy, .npz, .pt, .pkl or .safetensors, "
    f"alone, under one of the names {', '.join(CODE_NAMES)}, or one for each image."
)

logger = logging.getLogger("dcp_deploy")


def read_codes(path: str | os.PathLike[str], config: GeneratorConfig) -> Tensor:
    """Return the codes of a file for a generator of this config: ``ws`` float32 [B, num_ws, w_dim].

    A code of one vector counts for all slots. The rows of a single array [num_ws, w_dim] are one code, of another array
    [B, w_dim] they are B codes. Where each image has an array of its own, its rows are slots. Executes nothing.

    Raises InputError for codes of another width or number of slots, and for values that are not finite;
    UnknownFormatError for files without codes; and what :func:`read_array_file` raises for files that it cannot read.
    """
    arrays, one_each = _codes_of(read_array_file(path))
    return torch.cat([_fitted(stored, config, one_each) for stored in arrays])


def _codes_of(file: ArrayFile) -> tuple[list[StoredArray], bool]:
    """Return the arrays of a file that are its codes, in its order, and whether each is the code of one image."""
    found = file.value
    if isinstance(found, dict):
        found = _entry(file, found)
    if isinstance(found, StoredArray):
        return [found], False
    entries = list(found.values()) if isinstance(found, dict) else found if isinstance(found, list) else []
    images = [one for one in entries if isinstance(one, dict) and isinstance(one.get("latent"), StoredArray)]
    if images:  # rosinality; entries beside the images are noise maps
        if any("noise" in one for one in images):
            logger.warning("%s: its noise maps are not used: details differ from the projector's image", file.source)
        return [one["latent"] for one in images], True
    if not entries or file.is_network or not all(isinstance(one, StoredArray) for one in entries):
        raise UnknownFormatError(f"{file.source}: no codes in {file}", _READ)
    return entries, len(entries) > 1


def _entry(file: ArrayFile, value: dict[str, Any]) -> Any:
    """Return the entry under a usual name, if there is one; else the dictionary itself."""
    if DIRECTIONS in file.metadata or set(value) & set(DIRECTION_NAMES):
        raise UnknownFormatError(
            f"{file.source}: directions to edit along ({file}), not codes",
            "Give codes of images; directions belong to --directions.",
        )
    if set(value) <= {"z", "c"}:
        raise UnknownFormatError(f"{file.source}: latents z, but codes are in w, after the mapping network", _READ)
    for key in CODE_NAMES:
        if isinstance(value.get(key), StoredArray | list):
            if key == "model" and len(value) > 1:
                others = ", ".join(other for other in value if other != key)
                logger.warning("%s: the codes of the model are used, not those of: %s", file.source, others)
            return value[key]
    return value


def _fitted(stored: StoredArray, config: GeneratorConfig, one_each: bool) -> Tensor:
    """Return one array as [B, num_ws, w_dim]."""
    shape = stored.shape
    while len(shape) > 3 and 1 in shape[:-1]:
        shape = shape[: shape.index(1)] + shape[shape.index(1) + 1 :]
    if not 1 <= len(shape) <= 3 or shape[-1] != config.w_dim:
        raise InputError(
            f"{stored.name} is {list(stored.shape)}, but codes of this generator have {config.w_dim} numbers "
            f"in each of {config.num_ws} slots",
            "Give codes of this generator, or of the teacher that it was made from.",
        )
    batch, slots = _counts(stored.name, shape, config, one_each)
    if slots not in (1, config.num_ws):
        raise InputError(
            f"{stored.name} has {slots} slots{known_slots(slots)}; this generator of {config.resolution} px has "
            f"{config.num_ws}",
            "Give codes of this generator, or of one with as many slots.",
        )
    return stored.tensor().reshape(batch, slots, config.w_dim).expand(batch, config.num_ws, config.w_dim).contiguous()


def _counts(name: str, shape: tuple[int, ...], config: GeneratorConfig, one_each: bool) -> tuple[int, int]:
    """Return how many codes an array holds, and for how many slots. Two axes can mean either: say what was assumed."""
    if len(shape) != 2:
        return (1, 1) if len(shape) == 1 else (shape[0], shape[1])
    rows = shape[0]
    if rows == 1 or one_each:
        return 1, rows
    if rows == config.num_ws:
        logger.warning("%s is %s: taken as one code with a vector for each slot", name, list(shape))
        return 1, rows
    if rows >= _LEAST_SLOTS and (known := known_slots(rows)):
        logger.warning("%s is %s: taken as %d codes, not as one%s", name, list(shape), rows, known.removeprefix(","))
    return rows, 1


def known_slots(slots: int) -> str:
    """Say which published generators have this number of slots: ``, as of StyleGAN2 of 64 px``; empty if none has."""
    kinds = [f"StyleGAN2 of {1 << (slots // 2 + 1)} px"] if slots % 2 == 0 and 2 <= slots <= 24 else []
    kinds += ["StyleGAN3"] if slots == _STYLEGAN3_SLOTS else []
    return f", as of {' or '.join(kinds)}" if kinds else ""
