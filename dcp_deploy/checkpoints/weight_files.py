"""State dicts in safetensors and numpy's .npz files."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from ..errors import UnknownFormatError
from .arrays import DIRECTIONS, STORED_FLOATS, StoredArray, read_array_file
from .containers import format_of, mapped
from .native import opened_safetensors
from .pickles.content import Content
from .pickles.python_values import OrderedRecord
from .pickles.tensors import as_view
from .pickles.values import Load

SCORES = "dcp-deploy scores"  # how the format of our files of scores begins
FACTS = "dcp-deploy.facts"  # the metadata entry of a .safetensors file in NVIDIA's names


def read_weights(path: Path) -> Content:
    """Return the floating-point arrays of a .safetensors or .npz file.

    Raises as :func:`read_array_file` does, and UnknownFormatError for scores and directions of dcp-deploy.
    """
    data = mapped(path)
    tensors, metadata = _safetensors(path) if format_of(data) == "safetensors" else (_npz(path), {})
    if metadata.get("format", "").startswith(SCORES):
        raise UnknownFormatError(f"{path}: channel scores, not a checkpoint", "Give them to prune as --scores.")
    if DIRECTIONS in metadata:
        raise UnknownFormatError(f"{path}: editing directions, not a checkpoint", "Give them as --directions.")
    views = OrderedRecord()
    views.update({name: as_view(tensor) for name, tensor in tensors.items()})
    with suppress(ValueError, RecursionError):  # metadata of other tools, which nothing reads
        views.build(json.loads(metadata.get(FACTS, "null")))
    return Content(views, Load.of(str(path), len(data)), size=len(data))


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with opened_safetensors(path) as stream:
        names = [name for name in stream.keys() if stream.get_slice(name).get_dtype() in STORED_FLOATS]  # noqa: SIM118
        return {name: stream.get_tensor(name) for name in names}, dict(stream.metadata() or {})


def _npz(path: Path) -> dict[str, Tensor]:
    value = read_array_file(path).value
    arrays = value if isinstance(value, dict) else {}
    return {
        name: one.load()
        for name, one in arrays.items()
        if isinstance(one, StoredArray) and one.is_float and 0 not in one.shape
    }
