"""State dicts in safetensors and numpy's .npz files."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import CorruptFileError
from .native import opened_safetensors
from .pickles.content import Content
from .pickles.tensors import Storage, TensorView
from .pickles.values import Load, printable

_EXPANSION = 8  # weights hardly compress; more is an archive that was made to fill the memory
_BROKEN = (zipfile.BadZipFile, ValueError, EOFError, OSError, NotImplementedError, RuntimeError, KeyError, MemoryError)


def read_safetensors(path: Path) -> Content:
    """Return the tensors of a safetensors file that other tools wrote. Raises CorruptFileError for a damaged one."""
    with opened_safetensors(path) as stream:
        names = list(stream.keys())
        tensors = {name: stream.get_tensor(name) for name in names}
    return Content({name: view_of(tensor) for name, tensor in tensors.items()}, Load.of(str(path), path.stat().st_size))


def read_npz(data: memoryview, source: str) -> Content:
    """Return the arrays of an .npz file. Arrays that are not numbers are left out.

    Raises CorruptFileError for a damaged file, and for one that would take far more memory than it has bytes.
    """
    load = Load.of(source, len(data))
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            if size > _EXPANSION * len(data) + (1 << 24):
                raise load.damaged(f"its arrays would take {size:,} bytes, far more than the file has")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            found = {name: _array(arrays, name) for name in arrays.files}
    except _BROKEN as error:
        raise CorruptFileError(f"{source}: not a readable .npz file: {printable(str(error))}") from error
    return Content({name: view_of(tensor) for name, tensor in found.items() if tensor is not None}, load)


def _array(arrays: np.lib.npyio.NpzFile, name: str) -> Tensor | None:
    try:
        array = arrays[name]
    except ValueError:  # an array of objects, which would be a pickle
        return None
    plain = isinstance(array, np.ndarray) and array.dtype.kind in "fiub" and array.dtype.itemsize <= 8
    return torch.from_numpy(np.array(array, array.dtype.newbyteorder("="))) if plain else None


def view_of(tensor: Tensor) -> TensorView:
    """Return a tensor as a view of its bytes, like those in a pickle."""
    flat = tensor.contiguous().reshape(-1)
    data = flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
    strides: list[int] = []
    step = 1
    for size in reversed(tensor.shape):
        strides.insert(0, step)
        step *= size
    return TensorView(Storage(tensor.dtype, flat.numel(), data), 0, tuple(tensor.shape), tuple(strides))
