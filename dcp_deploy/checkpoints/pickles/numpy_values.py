"""Stand-ins for numpy's types, numbers and arrays in a pickle: inert records, checked before they become values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .values import Global, Inert, Load, Symbol, never_called

_TYPES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
_ORDERS: Mapping[str, Literal["<", ">", "|", "="]] = {"<": "<", ">": ">", "|": "|", "=": "="}
_DIMENSIONS = 8
_CORE = ("numpy.core", "numpy._core")  # before and since numpy 2


class DTypeRecord:
    """A numpy dtype of numbers. The pickle creates it from a code such as "f8" and sets the byte order later."""

    def __init__(self, code: str) -> None:
        self.dtype = np.dtype(code)

    def build(self, state: Any) -> None:
        """Take the byte order of ``(version, byte order, ...)``; only structured types use the other entries."""
        if type(state) is not tuple or len(state) < 2 or type(state[1]) is not str or state[1] not in _ORDERS:
            raise ValueError("a dtype with another state than numpy's")
        self.dtype = self.dtype.newbyteorder(_ORDERS[state[1]])


class ArrayRecord:
    """An array that is not decoded yet: type, shape and the bytes in the file."""

    def __init__(self) -> None:
        self.dtype = np.dtype(np.float64)
        self.shape: tuple[int, ...] = (0,)
        self.fortran = False
        self.readable = True
        """Whether its values are plain numbers: not texts, dates or objects."""
        self.data: memoryview | bytes = b""

    def build(self, state: Any) -> None:
        """Take the parts of ``(version, shape, dtype, Fortran order, bytes)``."""
        if type(state) is not tuple or len(state) != 5:
            raise ValueError("an array with another state than numpy's")
        self.fill(*state[1:])

    def fill(self, shape: Any, dtype: Any, fortran: Any, data: Any) -> None:
        """Take the parts of an array. Raises ValueError if they do not belong together."""
        if type(shape) is not tuple or len(shape) > _DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError("an array's shape is not a tuple of a few sizes")
        self.readable = type(dtype) is DTypeRecord
        if type(dtype) is Inert:
            return
        if type(dtype) is not DTypeRecord or type(data) not in (memoryview, bytes):
            raise ValueError("an array lacks its type or its bytes")
        if math.prod(shape) * dtype.dtype.itemsize != len(data):
            raise ValueError(f"an array of {len(data):,} bytes does not fill its shape")
        self.dtype, self.shape, self.fortran, self.data = dtype.dtype, shape, fortran is True, data

    def array(self, load: Load) -> npt.NDArray[Any]:
        """Return a copy of the values, in C order and the machine's byte order."""
        if not self.readable:
            raise load.damaged("a numpy array is of a type that does not hold plain numbers")
        load.spend(memory=len(self.data))
        flat = np.frombuffer(self.data, self.dtype)
        shaped = flat.reshape(self.shape, order="F" if self.fortran else "C")
        return np.array(shaped, self.dtype.newbyteorder("="), order="C")


NUMPY_BUILDABLE = (DTypeRecord, ArrayRecord)


def numpy_stand_ins(load: Load) -> Mapping[Global, Callable[..., Any]]:
    """Return the stand-in of each name, made anew for every load. The classes in NUMPY_BUILDABLE accept BUILD."""

    def dtype(code: Any, *flags: Any) -> DTypeRecord | Inert:
        return DTypeRecord(code) if type(code) is str and code in _TYPES else Inert("numpy.dtype")

    def scalar(kind: Any, data: Any) -> bool | int | float | Inert:
        if type(kind) is Inert:
            return Inert("numpy scalar")
        if type(kind) is not DTypeRecord or type(data) not in (memoryview, bytes) or len(data) != kind.dtype.itemsize:
            raise load.damaged("a numpy number is not of its type's size")
        value: bool | int | float = np.frombuffer(data, kind.dtype)[0].item()
        return value

    def reconstruct(kind: Any, shape: Any, code: Any) -> ArrayRecord | Inert:
        if type(kind) is not Symbol:
            raise load.damaged("a numpy array is of something that is not a class")
        return ArrayRecord() if kind.name == Global("numpy", "ndarray") else Inert(str(kind.name))

    def from_buffer(data: Any, kind: Any, shape: Any, order: Any) -> ArrayRecord:
        """Return an array as protocol 5 writes it."""
        record = ArrayRecord()
        record.fill(shape, kind, order == "F", data)
        return record

    stand_ins: dict[Global, Callable[..., Any]] = {Global("numpy", "dtype"): dtype}
    stand_ins[Global("numpy", "ndarray")] = never_called
    for core in _CORE:
        stand_ins[Global(f"{core}.multiarray", "scalar")] = scalar
        stand_ins[Global(f"{core}.multiarray", "_reconstruct")] = reconstruct
        stand_ins[Global(f"{core}.numeric", "_frombuffer")] = from_buffer
    return stand_ins
