"""Tensors in nested streams are read as torch wrote them, and no view reaches beyond its storage."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dcp_deploy.checkpoints.pickles.python_values import python_stand_ins
from dcp_deploy.checkpoints.pickles.reading import run_pickle
from dcp_deploy.checkpoints.pickles.tensors import STORAGES, TensorView, load_from_bytes, tensor_stand_ins
from dcp_deploy.checkpoints.pickles.values import Global, Load
from dcp_deploy.errors import CorruptFileError, InputError, UnsafeFileError

from .. import assembler as a

FLOATS = torch.arange(24.0)


def view(data: bytes, load: Load | None = None) -> Any:
    load = load or Load.of("file", len(data))
    allowed = {
        **python_stand_ins(load),
        **tensor_stand_ins(load),
        Global("torch.storage", "_load_from_bytes"): load_from_bytes(load),
    }
    return run_pickle(memoryview(data), load=load, allowed=allowed.get)[0]


def read(data: bytes) -> torch.Tensor:
    load = Load.of("file", len(data))
    found = view(data, load)
    assert isinstance(found, TensorView)
    tensor = found.tensor(load)
    assert tensor.is_contiguous()
    return tensor


# ---- streams of torch ----


@pytest.mark.parametrize("kind", STORAGES)
@pytest.mark.parametrize("protocol", [2, 4])
def test_every_type_is_read_unchanged(kind: str, protocol: int) -> None:
    original = torch.tensor([[0, 1, 2], [3, 4, 5]]).to(STORAGES[kind])
    assert torch.equal(read(pickle.dumps(original, protocol)), original)


@given(st.lists(st.integers(1, 4), max_size=4), st.randoms(use_true_random=False))
def test_any_order_of_axes_and_any_slice_is_read_unchanged(shape: list[int], random: Any) -> None:
    original = torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)
    axes = list(range(original.ndim))
    random.shuffle(axes)
    original = original.permute(axes)
    for axis in axes:
        start = random.randrange(original.shape[axis])
        original = original.narrow(axis, start, original.shape[axis] - start)
    assert torch.equal(read(pickle.dumps(original, 4)), original)


def test_a_parameter_is_its_tensor() -> None:
    original = torch.nn.Parameter(torch.randn(2, 3))
    assert torch.equal(read(pickle.dumps(original, 4)), original)


def test_channels_last_strides_are_honoured() -> None:
    original = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert torch.equal(read(pickle.dumps(original, 4)), original)


def test_a_view_is_copied_and_not_shared() -> None:
    load = Load.of("file", 1000)
    found = view(pickle.dumps(FLOATS, 4), load)
    found.tensor(load).fill_(-1)
    assert torch.equal(found.tensor(load), FLOATS)


def test_a_view_costs_memory_only_when_it_is_read() -> None:
    data = pickle.dumps([FLOATS] * 1000, 4)
    load = Load.of("file", 0)
    load.memory = 2000
    views = view(data, load)
    views[0].tensor(load)
    with pytest.raises(CorruptFileError, match="memory"):
        for one in views:
            one.tensor(load)


# ---- views that do not fit ----

BYTES = FLOATS.numpy().tobytes()


def test_the_assembler_writes_a_tensor_as_torch_does() -> None:
    data = a.whole(a.tensor(a.storage(BYTES), size=(4, 6), stride=(6, 1)))
    assert torch.equal(read(data), FLOATS.reshape(4, 6))


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((25,), (1,), 0),
        ((24,), (1,), 1),
        ((4, 6), (7, 1), 0),
        ((24,), (1,), -1),
        ((24,), (-1,), 23),
        ((-4, -6), (6, 1), 0),
        ((1 << 40,), (0,), 0),  # a terabyte of one value
        ((1 << 20, 1 << 20), (0, 0), 0),
        ((1 << 32, 1 << 32), (0, 0), 0),
        ((2, 13), (0, 1), 0),
        ((4, 6), (6,), 0),
        ((1,) * 9, (1,) * 9, 0),
        ((1,), (1,), 1 << 70),
        ((1 << 70,), (0,), 0),
    ],
)
def test_views_beyond_their_storage_are_refused(size: tuple[int, ...], stride: tuple[int, ...], offset: int) -> None:
    data = a.whole(a.tensor(a.storage(BYTES), size=size, stride=stride, offset=offset))
    with pytest.raises(CorruptFileError):
        view(data)


@given(
    st.lists(st.integers(-1, 30), max_size=3),
    st.lists(st.integers(-1, 30), max_size=3),
    st.integers(-1, 30),
)
def test_a_view_equals_torch_s_or_is_refused(size: list[int], stride: list[int], offset: int) -> None:
    load = Load.of("file", 10_000)
    rebuild = tensor_stand_ins(load)[Global("torch._utils", "_rebuild_tensor_v2")]
    storage = load_from_bytes(load)(a.storage(BYTES))
    try:
        made = rebuild(storage, offset, tuple(size), tuple(stride), False, {}).tensor(load)
    except CorruptFileError:
        return
    assert torch.equal(made, FLOATS.as_strided(size, stride, offset))


# ---- streams that do not fit ----


@pytest.mark.parametrize(
    "options",
    [
        {"numel": 25},
        {"announced": 23},
        {"numel": 1 << 46, "announced": 1 << 46},
        {"numel": -1, "announced": -1},
        {"magic": 1},
        {"little": pickle.NEWFALSE},
        {"kind": "ComplexFloatStorage"},
        {"module": "somewhere.else"},
    ],
    ids=str,
)
def test_streams_that_contradict_themselves_are_refused(options: dict[str, Any]) -> None:
    stream = a.storage(BYTES, **options)
    with pytest.raises(InputError):
        view(a.whole(a.tensor(stream, size=(1,), stride=(1,))))


@given(st.data())
def test_a_stream_cut_anywhere_is_refused(data: st.DataObject) -> None:
    stream = a.storage(BYTES)
    cut = data.draw(st.integers(0, len(stream) - 1))
    with pytest.raises(CorruptFileError):
        view(a.whole(a.tensor(stream[:cut], size=(24,), stride=(1,))))


def test_a_global_in_a_nested_stream_is_refused_by_name() -> None:
    evil = a.whole(a.call(a.name("os", "system"), a.text("touch /tmp/x")))
    for stream in (evil, a.whole(a.number(a.MAGIC)) + evil):
        with pytest.raises(UnsafeFileError, match=r"os\.system"):
            view(a.whole(a.tensor(stream, size=(1,), stride=(1,))))


def test_a_nested_stream_must_refer_to_its_storage() -> None:
    stream = a.storage(BYTES).replace(pickle.BINPERSID, b"")
    with pytest.raises(CorruptFileError, match="storages"):
        view(a.whole(a.tensor(stream, size=(1,), stride=(1,))))


@pytest.mark.parametrize("what", ["a storage", "a tensor", "a parameter"])
def test_tensors_are_made_of_the_right_things_only(what: str) -> None:
    one = a.tupled(a.number(1))
    bodies = {
        "a storage": a.call(a.name("torch.storage", "_load_from_bytes"), a.number(1)),
        "a tensor": a.call(
            a.name("torch._utils", "_rebuild_tensor_v2"), a.text("x"), a.number(0), one, one, pickle.NONE, pickle.NONE
        ),
        "a parameter": a.call(a.name("torch._utils", "_rebuild_parameter"), one, pickle.NONE, pickle.NONE),
    }
    with pytest.raises(CorruptFileError, match=what):
        view(a.whole(bodies[what]))
