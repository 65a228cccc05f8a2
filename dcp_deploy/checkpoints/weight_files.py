"""State dicts in safetensors and numpy's .npz files."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from .arrays import StoredArray, read_array_file
from .pickles.content import Content
from .pickles.python_values import OrderedRecord
from .pickles.tensors import Storage, TensorView
from .pickles.values import Load

FACTS = "dcp-deploy.facts"  # the metadata entry of a .safetensors file in NVIDIA's names


def read_weights(path: Path) -> Content:
    """Return the floating-point arrays of a .safetensors or .npz file. Raises as :func:`read_array_file` does."""
    file = read_array_file(path)
    value = file.value
    arrays = value if isinstance(value, dict) else {}
    floats = {name: one for name, one in arrays.items() if isinstance(one, StoredArray) and one.is_float}
    views = OrderedRecord()
    views.update({name: view_of(array.tensor()) for name, array in floats.items()})
    with suppress(ValueError, RecursionError):  # metadata of other tools, which nothing reads
        views.build(json.loads(file.metadata.get(FACTS, "null")))
    return Content(views, Load.of(str(path), path.stat().st_size))


def view_of(tensor: Tensor) -> TensorView:
    """Return a tensor as a view of its bytes, like those in a pickle."""
    flat = tensor.contiguous().reshape(-1)
    data = flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
    return TensorView(Storage(tensor.dtype, flat.numel(), data), 0, tuple(tensor.shape), tensor.contiguous().stride())
