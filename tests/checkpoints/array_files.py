"""Writes arrays as each of the file formats that hold plain arrays."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

Arrays = Mapping[str, np.ndarray]
CASES = Path(__file__).parent / "cases"


def _torch(arrays: Arrays, path: Path, *, zipped: bool = True) -> None:
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)


WRITERS: dict[str, Callable[[Arrays, Path], None]] = {
    "npz": lambda arrays, path: np.savez(path, **arrays),
    "compressed npz": lambda arrays, path: np.savez_compressed(path, **arrays),
    "pt": _torch,
    "old pt": lambda arrays, path: _torch(arrays, path, zipped=False),
    "pkl": lambda arrays, path: path.write_bytes(pickle.dumps(dict(arrays), protocol=4)) and None,
    "pkl 2": lambda arrays, path: path.write_bytes(pickle.dumps(dict(arrays), protocol=2)) and None,
    "safetensors": lambda arrays, path: save_file({k: torch.from_numpy(a.copy()) for k, a in arrays.items()}, path),
}
"""Functions that write named arrays, by format."""

ALONE: dict[str, Callable[[np.ndarray, Path], None]] = {
    "npy": lambda array, path: path.write_bytes(_npy(array)) and None,
    "pt": lambda array, path: torch.save(torch.from_numpy(array.copy()), path),
    "parameter": lambda array, path: torch.save(torch.nn.Parameter(torch.from_numpy(array.copy())), path),
    "old pt": lambda array, path: torch.save(
        torch.from_numpy(array.copy()), path, _use_new_zipfile_serialization=False
    ),
    "pkl": lambda array, path: path.write_bytes(pickle.dumps(array, protocol=5)) and None,
}
"""Functions that write one array without a name, by format."""


def _npy(array: np.ndarray) -> bytes:
    import io

    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()
