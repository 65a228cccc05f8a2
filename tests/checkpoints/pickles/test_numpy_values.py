"""numpy's numbers and arrays are read from every protocol, and records that contradict themselves are refused."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dcp_deploy.checkpoints.pickles.numpy_values import NUMPY_BUILDABLE, ArrayRecord, numpy_stand_ins
from dcp_deploy.checkpoints.pickles.python_values import python_stand_ins
from dcp_deploy.checkpoints.pickles.reading import run_pickle
from dcp_deploy.checkpoints.pickles.values import Inert, Load
from dcp_deploy.errors import CorruptFileError

from .. import assembler as a

TYPES = ["b1", "i1", "<i2", ">i4", "<i8", "u1", ">u8", "<f2", "<f4", ">f8"]
PROTOCOLS = pytest.mark.parametrize("protocol", [2, 3, 4, 5])


def read(data: bytes, load: Load | None = None) -> Any:
    load = load or Load.of("file", len(data))
    allowed = {**python_stand_ins(load), **numpy_stand_ins(load)}
    return run_pickle(memoryview(data), load=load, allowed=allowed.get, buildable=NUMPY_BUILDABLE)[0]


def array(data: bytes) -> npt.NDArray[Any]:
    found = read(data)
    assert isinstance(found, ArrayRecord)
    return found.array(Load.of("file", len(data)))


@PROTOCOLS
@pytest.mark.parametrize("kind", TYPES)
def test_every_type_of_number_is_read(kind: str, protocol: int) -> None:
    value = np.array([1], kind)[0]
    found = read(pickle.dumps(value, protocol))
    assert found == value
    assert type(found) is type(value.item())


@PROTOCOLS
@pytest.mark.parametrize("kind", TYPES)
def test_every_type_of_array_is_read(kind: str, protocol: int) -> None:
    original = np.arange(6).astype(kind).reshape(2, 3)
    found = array(pickle.dumps(original, protocol))
    np.testing.assert_array_equal(found, original)
    assert found.dtype.isnative


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, min_side=0), elements=st.integers(0, 9)), st.booleans())
def test_every_shape_and_memory_order_is_read(original: npt.NDArray[Any], fortran: bool) -> None:
    original = np.asfortranarray(original) if fortran else original
    for protocol in (2, 4, 5):
        found = array(pickle.dumps(original, protocol))
        np.testing.assert_array_equal(found, original)
        assert found.flags.c_contiguous
        assert found.flags.owndata


@pytest.mark.parametrize("core", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_both_names_of_numpy_s_core_are_known(core: str) -> None:
    data = pickle.dumps(np.float64(0.25), 2)
    renamed = data.replace(b"numpy._core.multiarray", core.encode()).replace(b"numpy.core.multiarray", core.encode())
    assert read(renamed) == 0.25


@pytest.mark.parametrize(
    "value",
    [
        np.array([object()], dtype=object),
        np.array(["text"]),
        np.array([b"bytes"]),
        np.array([1 + 2j]),
        np.zeros(2, [("a", "f4"), ("b", "i4")]),
        np.array(["2020-01-01"], "M8[D]"),
        np.longdouble(1),
    ],
    ids=lambda value: str(value.dtype),
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_types_without_plain_numbers_are_left_unread(value: Any, protocol: int) -> None:
    value = value if value.dtype != object else np.array([None], dtype=object)
    found = read(pickle.dumps(value, protocol))
    if value.shape:
        with pytest.raises(CorruptFileError, match="plain numbers"):
            found.array(Load.of("file", 100))
    else:
        assert isinstance(found, Inert)


def dtype(code: str = "f4", order: str = "<") -> bytes:
    state = a.tupled(a.number(3), a.text(order), *[pickle.NONE] * 3, a.number(-1), a.number(-1), a.number(0))
    return bytes(a.call(a.name("numpy", "dtype"), a.text(code)) + state + pickle.BUILD)


def record(*state: bytes) -> bytes:
    made = a.call(
        a.name("numpy.core.multiarray", "_reconstruct"),
        a.name("numpy", "ndarray"),
        a.tupled(a.number(0)),
        a.raw(b"b"),
    )
    return bytes(a.whole(made + a.tupled(a.number(1), *state) + pickle.BUILD))


def test_the_assembler_writes_an_array_as_numpy_does() -> None:
    data = record(a.tupled(a.number(2)), dtype(), pickle.NEWFALSE, a.raw(np.float32([1, 2]).tobytes()))
    np.testing.assert_array_equal(array(data), [1, 2])


@pytest.mark.parametrize("what", ["bytes", "shape", "sign", "nested", "dimensions", "type", "list", "parts", "order"])
def test_records_that_contradict_themselves_are_refused(what: str) -> None:
    eight, two, no = a.raw(bytes(8)), a.tupled(a.number(2)), pickle.NEWFALSE
    states = {
        "bytes": (two, dtype(), no, a.raw(bytes(7))),
        "shape": (a.tupled(a.number(1 << 40), a.number(1 << 40)), dtype(), no, eight),
        "sign": (a.tupled(a.number(-1), a.number(-2)), dtype(), no, eight),
        "nested": (a.tupled(a.tupled()), dtype(), no, eight),
        "dimensions": (a.tupled(*[a.number(1)] * 9), dtype(), no, a.raw(bytes(4))),
        "type": (two, a.text("f4"), no, eight),
        "list": (two, dtype(), no, a.listed(a.number(1), a.number(2))),
        "parts": (two, dtype(), no),
        "order": (two, dtype(order="!"), no, eight),
    }
    with pytest.raises(CorruptFileError):
        read(record(*states[what]))


def test_an_array_of_another_class_is_inert() -> None:
    kind = a.name("numpy.core.multiarray", "scalar")
    made = a.call(a.name("numpy.core.multiarray", "_reconstruct"), kind, a.tupled(a.number(0)), a.raw(b"b"))
    assert isinstance(read(a.whole(made)), Inert)
    assert isinstance(read(pickle.dumps(np.ma.masked_array([1.0]), 4)), Inert)


def test_an_array_made_of_no_class_is_refused() -> None:
    made = a.call(a.name("numpy.core.multiarray", "_reconstruct"), a.number(1), a.tupled(a.number(0)), a.raw(b"b"))
    with pytest.raises(CorruptFileError, match="class"):
        read(a.whole(made))


def test_a_number_of_the_wrong_size_is_refused() -> None:
    with pytest.raises(CorruptFileError, match="number"):
        read(a.whole(a.call(a.name("numpy.core.multiarray", "scalar"), dtype(), a.raw(bytes(8)))))


def test_reading_an_array_uses_the_memory_budget() -> None:
    load = Load.of("file", 0)
    load.memory = 100
    found = read(pickle.dumps(np.zeros(100), 4), Load.of("file", 1000))
    with pytest.raises(CorruptFileError, match="memory"):
        found.array(load)
