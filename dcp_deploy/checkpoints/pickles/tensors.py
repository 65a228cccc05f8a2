"""Tensors as torch writes them: storages of raw bytes, and strided views into them.

A view is checked when it is created and copied when it is read, so nothing aliases the file or another tensor. A view
that is not read costs nothing: the discriminator in a snapshot is never decoded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .numpy_values import ArrayRecord
from .reading import run_pickle
from .values import Buildable, Global, Inert, Load, Symbol, never_called

STORAGES: Mapping[str, torch.dtype] = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "DoubleStorage": torch.float64,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "QInt8Storage": torch.int8,
    "QUInt8Storage": torch.uint8,
    "QInt32Storage": torch.int32,
    "UntypedStorage": torch.uint8,  # of types without a storage of their own, such as float8
}
_STORAGE_MODULES = ("torch", "torch.cuda", "torch.storage")
_DIMENSIONS = 8
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


@dataclass
class Storage:
    """``numel`` values of one type. ``data`` are their little-endian bytes, None until they are found."""

    dtype: torch.dtype
    numel: int
    data: memoryview | None = None

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True)
class TensorView:
    """A tensor that is not read yet: its storage, and the place of its values in there."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def stored(self) -> memoryview | bytes:
        """Return the bytes from its first value to its last; empty if there are none."""
        if self.storage.data is None or 0 in self.shape:
            return b""
        itemsize = self.storage.dtype.itemsize
        span = 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        return self.storage.data[self.offset * itemsize : (self.offset + span) * itemsize]

    def tensor(self, load: Load) -> Tensor:
        """Return a contiguous copy of the values. Raises CorruptFileError if they are missing."""
        if self.storage.data is None:
            raise load.damaged("a tensor's values are not in the file")
        if 0 in self.shape:
            raise load.damaged(f"a tensor of shape {list(self.shape)} has no values")
        stored = self.stored()
        load.spend(memory=len(stored))
        values = bytearray(stored)
        flat = torch.frombuffer(values, dtype=self.storage.dtype)
        return flat.as_strided(self.shape, self.stride).contiguous()


def as_view(value: Any) -> Any:
    """Return a tensor, or a numpy array of floats, as a view of its bytes, and every other value as it is."""
    if isinstance(value, Tensor):
        value = value.contiguous()
        flat = value.reshape(-1)
        data = flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
        return TensorView(Storage(value.dtype, flat.numel(), data), 0, tuple(value.shape), value.stride())
    if type(value) is ArrayRecord and value.readable and value.dtype.kind == "f" and value.dtype.isnative:
        kind = {2: torch.float16, 4: torch.float32, 8: torch.float64}[value.dtype.itemsize]
        order = value.shape[::-1] if value.fortran else value.shape
        strides = torch.empty(order, device="meta").stride()
        storage = Storage(kind, math.prod(value.shape), memoryview(value.data))
        return TensorView(storage, 0, value.shape, strides[::-1] if value.fortran else strides)
    return value


def storage_stand_ins() -> Mapping[Global, Callable[..., Any]]:
    """Return stand-ins of the storage types of torch."""
    return dict.fromkeys((Global(module, name) for module in _STORAGE_MODULES for name in STORAGES), never_called)


def tensor_stand_ins(load: Load) -> Mapping[Global, Callable[..., Any]]:
    """Return the functions that rebuild tensors and parameters from storages, made anew for every load."""

    def rebuild_tensor(
        storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, metadata: Any = None
    ) -> TensorView | Inert:
        if type(storage) is Inert:
            return storage
        if isinstance(metadata, dict) and any(metadata.values()):  # the values are stored without the sign
            return Inert("a negated or conjugated view")
        if type(storage) is not Storage:
            raise load.damaged("a tensor is made of something that is not a storage")
        return _view(storage, offset, size, stride, load)

    def rebuild_parameter(tensor: Any, requires_grad: Any, hooks: Any, state: Any = None) -> TensorView | Inert:
        if type(tensor) not in (TensorView, Inert):
            raise load.damaged("a parameter is made of something that is not a tensor")
        made: TensorView | Inert = tensor
        return made

    def rebuild_subclass(function: Any, kind: Any, arguments: Any, state: Any) -> TensorView | Inert:
        """Return a tensor with attributes or of a class of its own as what it is based on."""
        if type(function) is Symbol and function.function is rebuild_tensor and type(arguments) is tuple:
            tensor: TensorView | Inert = rebuild_tensor(*arguments)
            return tensor
        return Inert("torch._tensor._rebuild_from_type_v2")

    return {
        Global("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
        Global("torch._utils", "_rebuild_parameter"): rebuild_parameter,
        Global("torch._utils", "_rebuild_parameter_with_state"): rebuild_parameter,
        Global("torch._tensor", "_rebuild_from_type_v2"): rebuild_subclass,
    }


def storage_of(key: Any, load: Load, known: dict[str, Storage]) -> tuple[str, Storage]:
    """Return key and storage of a persistent id ``("storage", type, key, location, numel[, None])``.

    ``known`` holds the storages of the file so far; a new one is added, still without data.
    """
    if (
        type(key) is not tuple
        or len(key) not in (5, 6)
        or key[0] != "storage"
        or (len(key) == 6 and key[5] is not None)
    ):
        raise load.damaged("it refers to something that is not a storage")
    kind, name, numel = key[1], key[2], key[4]
    if type(kind) is not Symbol or kind.name.module not in _STORAGE_MODULES or kind.name.name not in STORAGES:
        raise load.damaged("a storage is of a type that does not hold numbers")
    if type(name) is not str or not _is_size(numel):
        raise load.damaged("a storage lacks its name or its size")
    storage = known.setdefault(name, Storage(STORAGES[kind.name.name], numel))
    if (storage.dtype, storage.numel) != (STORAGES[kind.name.name], numel):
        raise load.damaged("a storage is named with two types or sizes")
    return name, storage


def saved_class(key: Any) -> Symbol | None:
    """Return the class of a persistent id ``("module", class, file, source text)``, None for any other.

    Until its zip format, torch saved the source of each module that was pickled whole beside its name.
    """
    is_class = type(key) is tuple and len(key) == 4 and key[0] == "module" and type(key[1]) is Symbol
    found: Symbol | None = key[1] if is_class else None
    return found


def read_legacy(
    data: memoryview,
    load: Load,
    allowed: Callable[[Global], Callable[..., Any] | None],
    buildable: tuple[type[Buildable], ...] = (),
) -> Any:
    """Return the value in a stream of torch.save before its zip format (torch 1.6), with storages filled.

    The stream consists of pickles: a magic number, a protocol number, facts about the machine, the value (with storages
    as persistent ids) and the keys of the storages. For each key follow its count as an int64 and its bytes.
    Raises as run_pickle does, and CorruptFileError if a part does not fit the others.
    """
    storages: dict[str, Storage] = {}

    def persistent(key: Any) -> Storage | Symbol:
        return saved_class(key) or storage_of(key, load, storages)[1]

    for expected in (_MAGIC, _PROTOCOL):
        found, end = run_pickle(data, load=load, allowed=_nothing)
        if type(found) is not int or found != expected:
            raise load.damaged("a stream of tensors does not start as torch.save writes it")
        data = data[end:]
    machine, end = run_pickle(data, load=load, allowed=_nothing)
    if type(machine) is not dict or machine.get("little_endian") is not True:
        raise load.damaged("a stream of tensors is not little-endian")
    data = data[end:]
    value, end = run_pickle(data, load=load, allowed=allowed, persistent=persistent, buildable=buildable)
    data = data[end:]
    keys, end = run_pickle(data, load=load, allowed=_nothing)
    _fill(data[end:], keys, storages, load)
    return value


def load_from_bytes(load: Load) -> Callable[..., Storage | Inert]:
    """Return the stand-in for ``torch.storage._load_from_bytes``, which reads the one storage of a nested stream."""
    names = storage_stand_ins()

    def read(data: Any) -> Storage | Inert:
        if type(data) not in (memoryview, bytes):
            raise load.damaged("a storage is made of something that is not bytes")
        storage = read_legacy(memoryview(data), load, names.get)
        if type(storage) not in (Storage, Inert):
            raise load.damaged("a nested stream holds something that is not a storage")
        made: Storage | Inert = storage
        return made

    return read


def _nothing(name: Global) -> None:
    """Allow no global."""


def _fill(data: memoryview, keys: Any, storages: Mapping[str, Storage], load: Load) -> None:
    """Give every storage its bytes, which are stored in the order of ``keys``."""
    if type(keys) is not list or set(map(type, keys)) - {str} or sorted(keys) != sorted(storages):
        raise load.damaged("the storages of a stream are not those it refers to")
    for key in keys:
        storage = storages[key]
        end = 8 + storage.nbytes
        if len(data) < end or int.from_bytes(data[:8], "little", signed=True) != storage.numel:
            raise load.damaged(f"a storage of {storage.numel:,} values is cut off or has another size")
        storage.data = data[8:end]
        data = data[end:]


def _view(storage: Storage, offset: Any, shape: Any, stride: Any, load: Load) -> TensorView:
    """Return a view, after checking that it fits into its storage: a step of 0 could make terabytes of one value."""
    for numbers in (shape, stride):
        if type(numbers) is not tuple or len(numbers) > _DIMENSIONS or not all(map(_is_size, numbers)):
            raise load.damaged("a tensor's shape or stride is not a tuple of a few sizes")
    if len(shape) != len(stride) or not _is_size(offset):
        raise load.damaged("a tensor's offset, shape and stride do not belong together")
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if 0 not in shape and (math.prod(shape) > storage.numel or last >= storage.numel):
        raise load.damaged(
            f"a tensor of shape {list(shape)}, stride {list(stride)} and offset {offset} does not fit "
            f"into its storage of {storage.numel:,} values"
        )
    return TensorView(storage, offset, shape, stride)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 48
