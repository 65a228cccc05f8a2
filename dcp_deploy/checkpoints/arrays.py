"""Files of plain arrays as numpy, torch, pickle and safetensors write them: codes and directions that people bring.

Nothing in a file is executed. Only names and shapes are read at first; an array is read when it is wanted.
"""

from __future__ import annotations

import io
import os
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import CorruptFileError, InputError, UnknownFormatError
from .containers import format_of, mapped
from .foreign import content_of
from .native import opened_safetensors
from .pickles.content import Content, read_pickle_file
from .pickles.numpy_values import ArrayRecord
from .pickles.tensors import TensorView
from .pickles.torch_file import MemoryStream, read_torch_file
from .pickles.values import Load, printable

DIRECTIONS = "dcp_deploy.directions"
"""The metadata key of our files of directions: a JSON object, name -> {"layers": [first, last], "sigma": number}."""
_NPY = b"\x93NUMPY"
_HEADER = 1 << 16  # bytes that hold the header of every .npy file that numpy reads without a flag
_DIRECTORY = 4 << 20  # bytes read at once from an archive: its list of entries is not longer
_MARGIN, _RATIO = 64 << 20, 4  # an archive may unpack to this many bytes, and this many times its size more
_DEPTH = 4  # of dictionaries and lists in each other
_SHOWN = 8
_AXES = 32
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
STORED_FLOATS = ("F64", "F32", "F16", "BF16")
_NETWORKS = (b"torch_utils.persistence", b"dnnlib.tflib.network")
_BROKEN_ZIP = (
    zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, OSError, struct.error, zlib.error,
)  # fmt: skip
_BROKEN_HEADER = (
    ValueError, SyntaxError, TypeError, KeyError, AttributeError, RecursionError, MemoryError, OverflowError,
    tokenize.TokenError, struct.error,
)  # fmt: skip


@dataclass(frozen=True)
class StoredArray:
    """An array that is not read yet: a name for messages, its shape, and the function that reads it."""

    name: str
    shape: tuple[int, ...]
    load: Callable[[], Tensor]
    is_float: bool = True

    def tensor(self) -> Tensor:
        """Return the values as float32. Raises InputError for other types than floats, NaN, infinity or no values."""
        if 0 in self.shape:
            raise InputError(f"{self.name} is {list(self.shape)}: it has no values")
        found = self.load()
        if found.dtype not in _FLOATS:
            raise InputError(f"{self.name} is stored as {found.dtype}, floats were expected")
        values = found.float()
        if not torch.isfinite(values).all():
            raise InputError(f"{self.name} holds values that are not finite")
        return values


@dataclass(frozen=True)
class ArrayFile:
    """A file: what wrote it ("a numpy array", ...), and its value.

    The value is a StoredArray, or a dictionary or list of such values, of numbers and of texts. ``metadata`` is that of
    safetensors.
    """

    source: str
    kind: str
    value: Any
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_network(self) -> bool:
        """Whether the names are those of the weights of a network."""
        return _weights_in(self.value, _DEPTH)

    def __str__(self) -> str:
        """Return kind and content for a message: ``a torch.save file of {comp [10, 1, 512], std [10]}``."""
        what = "the weights of a network" if self.is_network else _shown(self.value)
        return f"{self.kind} of {what}"


def read_array_file(path: str | os.PathLike[str]) -> ArrayFile:
    """Return names and shapes in a ``.npy``, ``.npz``, ``.pt``, ``.pkl`` or ``.safetensors``, known by its content.

    Raises InputError for a missing file, UnknownFormatError for other content, CorruptFileError for a damaged file,
    UnsafeFileError for a pickle with a hostile name.
    """
    source = Path(path)
    data = mapped(source)
    head, found = bytes(data[:_HEADER]), format_of(data)
    if head.startswith(_NPY):
        return ArrayFile(str(source), "a numpy array", _npy(head, len(data), lambda: data, str(source)))
    if found == "npz":
        return _npz(data, source)
    if found == "safetensors":
        return _safetensors(source)
    if found == "torch":
        file = read_torch_file(data, str(source))
        return ArrayFile(str(source), "a torch.save file", _tree(file.value, file))
    if found == "pickle":
        if any(name in head for name in _NETWORKS):
            raise UnknownFormatError(f"{source}: a checkpoint of a network, not a file of arrays", _READ)
        content = read_pickle_file(data, str(source))
        return ArrayFile(str(source), "a pickle", _tree(content.value, content))
    raise UnknownFormatError(
        f"{source}: {(content_of(data) or ('unknown content', ''))[0]}, not a file of arrays", _READ
    )


_READ = "Give one of these: .npy and .npz of numpy, .pt of torch.save, .pkl of arrays, and .safetensors."


def _weights_in(value: Any, depth: int) -> bool:
    if not isinstance(value, dict) or not depth:
        return False
    return any(key.endswith((".weight", ".bias")) or _weights_in(one, depth - 1) for key, one in value.items())


def _shown(value: Any, *, inside: bool = False) -> str:
    if isinstance(value, StoredArray):
        return str(list(value.shape))
    if isinstance(value, dict) and not inside:
        words = [f"{printable(key, 40)} {_shown(one, inside=True)}" for key, one in list(value.items())[:_SHOWN]]
        return "{" + ", ".join([*words, *(["..."] if len(value) > _SHOWN else [])]) + "}"
    if isinstance(value, dict | list):
        return f"a {'list' if isinstance(value, list) else 'dictionary'} of {len(value)}"
    return "another value" if value is None else printable(str(value), 40)


# ---- numpy ----


def _npy(head: bytes, size: int, read: Callable[[], bytes | memoryview], name: str) -> StoredArray:
    """Return the array of a .npy file that starts with ``head``; ``read`` returns all ``size`` bytes of it.

    The header states the shape, which is believed only if the file is exactly as long as it says.
    """
    shape, fortran, dtype, start = _npy_header(head, name)
    if len(shape) > _AXES or any(type(n) is not int or n < 0 for n in shape):
        raise CorruptFileError(f"{name}: its header says {printable(str(shape))}, which is not a shape")
    if not dtype.hasobject and start + prod(shape) * dtype.itemsize != size:
        said = f"{list(shape)} of {printable(str(dtype), 40)}"
        raise CorruptFileError(f"{name}: its header says {said}, but it has {max(size - start, 0):,} bytes of values")

    def load() -> Tensor:
        if dtype.hasobject:
            raise InputError(
                f"{name} holds Python objects, and reading them would run code",
                "Save numbers: np.save(FILE, np.stack([codes of each image])).",
            )
        _check_floats(dtype, name)
        flat: NDArray[Any] = np.frombuffer(read(), dtype, offset=start)
        with np.errstate(over="ignore"):  # what becomes infinite is refused
            return torch.from_numpy(flat.reshape(shape, order="F" if fortran else "C").astype(np.float32, order="C"))

    return StoredArray(name, shape, load, dtype.kind == "f")


def _check_floats(dtype: np.dtype[Any], name: str) -> None:
    if dtype.kind != "f":
        raise InputError(f"{name} holds {printable(str(dtype), 40)}, floats were expected")


def _npy_header(head: bytes, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return shape, Fortran order, type and the offset of the values."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    stream = io.BytesIO(head)
    try:
        reader = readers[np.lib.format.read_magic(stream)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a header of Python 2 is read, with a warning about its age
            shape, fortran, dtype = reader(stream)
    except _BROKEN_HEADER as error:
        raise CorruptFileError(f"{name}: not a readable .npy: {printable(str(error), 200)}") from error
    return shape, fortran, dtype, stream.tell()


@contextmanager
def _reading_zip(path: str) -> Iterator[None]:
    """Raise CorruptFileError for every error of a damaged archive."""
    try:
        yield
    except _BROKEN_ZIP as error:
        raise CorruptFileError(f"{path}: not a readable zip archive: {printable(str(error), 200)}") from error


def _npz(data: memoryview, path: Path) -> ArrayFile:
    arrays: dict[str, StoredArray] = {}
    with _reading_zip(str(path)):
        archive = zipfile.ZipFile(MemoryStream(data))
        entries = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
        if not entries:
            shown = ", ".join(printable(name, 60) for name in archive.namelist()[:_SHOWN])
            raise UnknownFormatError(f"{path}: a zip archive of {shown}", "Unzip it, and give the file inside.")
        if sum(entry.file_size for entry in entries) > _MARGIN + _RATIO * len(data):
            raise CorruptFileError(f"{path}: its arrays would take far more memory than the file has bytes")
        for entry in entries:
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise CorruptFileError(f"{path}: compressed in a way that numpy never uses")
            with archive.open(entry) as stream:
                head = stream.read(_HEADER)
            key = entry.filename.removesuffix(".npy")
            name = f"{printable(key, 40)} of {path}"
            read = partial(_entry, archive, entry, str(path))
            arrays[key] = _npy(head, entry.file_size, read, name)
    return ArrayFile(str(path), "a numpy archive", arrays)


def _entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: str) -> bytes:
    """Return the bytes of an entry, never more than the list of entries says."""
    read = bytearray()
    with _reading_zip(path), archive.open(entry) as stream:
        while piece := stream.read(1 << 20):
            read += piece
    if len(read) != entry.file_size:
        raise CorruptFileError(f"{path}: {printable(entry.filename, 60)} has another size than the archive says")
    return bytes(read)


# ---- torch, pickle, safetensors ----


def _tree(value: Any, file: Content, name: str = "", depth: int = 0) -> Any:
    """Return a value with its tensors and arrays as StoredArray. What lies deeper than any known layout is None."""
    source, load = file.load.source, file.load
    load.spend(steps=1)  # containers may hold each other, and be shared
    known = f"{name} of {source}" if name else source
    if isinstance(value, TensorView):
        return StoredArray(known, value.shape, lambda: file.tensors({known: value})[known])
    if isinstance(value, ArrayRecord):
        return StoredArray(known, value.shape, lambda: _numpy(value, known, load))
    if not isinstance(value, dict | list | tuple):
        return value if isinstance(value, str | int | float) else None
    if depth == _DEPTH:
        return None

    def inner(key: Any, one: Any) -> Any:
        return _tree(one, file, f"{name}[{printable(str(key), 40)}]" if name else str(key), depth + 1)

    if isinstance(value, dict):
        return {str(key): inner(key, one) for key, one in value.items() if type(key) in (str, int)}
    return [inner(index, one) for index, one in enumerate(value)]


def _numpy(record: ArrayRecord, name: str, load: Load) -> Tensor:
    _check_floats(record.dtype, name)
    with np.errstate(over="ignore"):
        return torch.from_numpy(record.array(load).astype(np.float32))


def _safetensors(path: Path) -> ArrayFile:
    def load(name: str) -> Tensor:
        with opened_safetensors(path) as stream:
            kind = stream.get_slice(name).get_dtype()
            if kind not in STORED_FLOATS:
                raise InputError(f"{printable(name, 40)} of {path} is stored as {kind}, floats were expected")
            tensor: Tensor = stream.get_tensor(name)
            return tensor

    with opened_safetensors(path) as stream:
        slices = {name: stream.get_slice(name) for name in stream.keys()}  # noqa: SIM118
        kinds = {name: (tuple(one.get_shape()), one.get_dtype() in STORED_FLOATS) for name, one in slices.items()}
        metadata = dict(stream.metadata() or {})
    arrays = {
        name: StoredArray(f"{printable(name, 40)} of {path}", shape, lambda name=name: load(name), is_float)  # type: ignore[misc]
        for name, (shape, is_float) in kinds.items()
    }
    return ArrayFile(str(path), "a safetensors file", arrays, metadata)
