"""torch.save files are read unchanged, and no code in a file runs."""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dcp_deploy.checkpoints.pickles.content import Content
from dcp_deploy.checkpoints.pickles.tensors import TensorView
from dcp_deploy.checkpoints.pickles.torch_file import is_torch_file, read_torch_file
from dcp_deploy.checkpoints.pickles.values import Inert
from dcp_deploy.errors import CorruptFileError, InputError, UnknownFormatError, UnsafeFileError

BOTH = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
]  # fmt: skip


def saved(value: Any, zipped: bool = True, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=zipped, **options)
    return stream.getvalue()


def read(data: bytes) -> Content:
    return read_torch_file(memoryview(data), "file.pt")


def tensors(data: bytes) -> dict[str, torch.Tensor]:
    """Return all tensors of a file that holds a dictionary of tensors."""
    content = read(data)
    return content.tensors(content.value)


def rewritten(data: bytes, change: Callable[[str, bytes], bytes | None], **options: Any) -> bytes:
    """Return the archive with the bytes of each entry replaced; None leaves an entry out."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w", **options) as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
    return stream.getvalue()


class Runs:
    """Pickles as a call that creates a file if it is executed."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


# ---- what is read ----


@BOTH
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_training_file_is_read_unchanged(zipped: bool, protocol: int) -> None:
    net = torch.nn.Linear(3, 2)
    optimiser = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    document = {
        "g": net.state_dict(),
        "g_optim": optimiser.state_dict(),
        "args": argparse.Namespace(size=32, path="lmdb"),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "size": torch.Size([1, 2]),
        "device": torch.device("cuda", 1),
        "dtype": torch.float16,
        "names": {"a", "b"},
        "mean_path": np.float64(0.25),
        "nested": [1, (2.5, None, True)],
    }
    data = saved(document, zipped, pickle_protocol=protocol)
    assert is_torch_file(memoryview(data))
    content = read(data)
    value = content.value
    for name, tensor in content.tensors(value["g"]).items():
        assert torch.equal(tensor, net.state_dict()[name])
    assert torch.equal(content.tensors({"p": value["parameter"]})["p"], torch.ones(2))
    assert value["g_optim"]["param_groups"][0]["lr"] == 1e-3
    plain = {name: value[name] for name in ("args", "size", "device", "names", "mean_path", "nested")}
    assert plain == {
        "args": {"size": 32, "path": "lmdb"},
        "size": (1, 2),
        "device": "cuda:1",
        "names": {"a", "b"},
        "mean_path": 0.25,
        "nested": [1, (2.5, None, True)],
    }
    assert {"argparse.Namespace", "torch.FloatStorage"} <= set(content.globals)


@BOTH
@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(1, 4), max_size=4),
    order=st.randoms(use_true_random=False),
    cut=st.integers(0, 3),
)
def test_every_type_shape_stride_and_offset_is_read_unchanged(
    zipped: bool, dtype: torch.dtype, shape: list[int], order: Any, cut: int
) -> None:
    tensor = (torch.randn([*shape, 1][: len(shape)]) * 50).to(dtype)
    axes = list(range(len(shape)))
    order.shuffle(axes)
    view = tensor.permute(axes)
    view = view[min(cut, view.shape[0] - 1) :] if shape else view
    found = tensors(saved({"x": view, "whole": tensor}, zipped))
    assert torch.equal(found["x"], view) and found["x"].dtype == dtype
    assert torch.equal(found["whole"], tensor)
    assert found["x"].is_contiguous()


@BOTH
def test_only_the_requested_tensors_are_read(zipped: bool) -> None:
    content = read(saved({"g": torch.zeros(4), "d": torch.zeros(1 << 16)}, zipped))
    before = content.load.memory
    content.tensors({"g": content.value["g"]})
    assert before - content.load.memory == 16


def test_files_without_checksums_are_read() -> None:
    """torch writes zeros if checksums are switched off."""
    torch.serialization.set_crc32_options(False)
    try:
        data = saved({"x": torch.ones(3)})
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(tensors(data)["x"], torch.ones(3))


# ---- what is refused ----


@BOTH
def test_a_call_in_the_pickle_is_refused_by_name_and_not_executed(zipped: bool, tmp_path: Path) -> None:
    data = saved({"g_ema": Runs(tmp_path / "marker")}, zipped)
    with pytest.raises(UnsafeFileError, match=r"(posix|os)\.system"):
        read(data)
    assert not (tmp_path / "marker").exists()


@BOTH
def test_a_whole_module_is_inert_and_keeps_its_state(zipped: bool) -> None:
    content = read(saved({"g_ema": torch.nn.Linear(2, 2)}, zipped))
    module = content.value["g_ema"]
    assert module.name == "torch.nn.modules.linear.Linear"
    assert content.unread == ("torch.nn.modules.linear.Linear",)
    assert content.tensors(module.state["_parameters"])["weight"].shape == (2, 2)


@BOTH
def test_tensors_of_types_that_are_not_read_stop_nothing(zipped: bool) -> None:
    value = {
        "x": torch.ones(2), "complex": torch.ones(2, dtype=torch.complex64), "sparse": torch.eye(3).to_sparse(),
        "float8": torch.ones(4).to(torch.float8_e4m3fn),
    }  # fmt: skip
    content = read(saved(value, zipped))
    assert content.tensors({"x": content.value["x"]})["x"].tolist() == [1, 1]
    assert all(isinstance(content.value[name], Inert) for name in ("sparse", "float8"))


@BOTH
def test_a_tensor_with_attributes_is_read(zipped: bool) -> None:
    parameter, tensor = torch.nn.Parameter(torch.ones(2)), torch.ones(3)
    parameter.lr, tensor.tag = 0.1, "x"  # type: ignore[attr-defined]
    content = read(saved({"p": parameter, "t": tensor}, zipped))
    assert [len(value) for value in content.tensors(content.value).values()] == [2, 3]


def test_changed_bytes_of_a_tensor_are_noticed() -> None:
    data = saved({"x": torch.full((64,), 7.0)})
    at = data.index(torch.full((64,), 7.0).numpy().tobytes())
    content = read(data[: at + 9] + b"!" + data[at + 10 :])
    with pytest.raises(CorruptFileError, match="the bytes of x do not match their checksum"):
        content.tensors(content.value)


def test_changed_bytes_of_the_pickle_are_noticed() -> None:
    data = saved({"name": "a text that stands in the pickle"})
    with pytest.raises(CorruptFileError, match=r"data\.pkl do not match"):
        read(data.replace(b"stands", b"hides!"))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda name, content: None if name.endswith("data/0") else content, {}, "is missing in the archive"),
        (lambda name, content: content[:-4] if name.endswith("data/0") else content, {}, "of 12 bytes is 8 bytes"),
        (lambda name, content: content, {"compression": zipfile.ZIP_DEFLATED}, "compressed or encrypted"),
        (lambda name, content: content + b"." if name.endswith(".pkl") else content, {}, "continues after its end"),
    ],
    ids=["storage missing", "storage short", "compressed", "pickle too long"],
)
def test_archives_that_torch_does_not_write_are_refused(change: Any, options: Any, message: str) -> None:
    with pytest.raises(CorruptFileError, match=message):
        read(rewritten(saved({"x": torch.ones(3)}), change, **options))


def test_two_entries_of_one_name_are_refused() -> None:
    stream = io.BytesIO(saved({"x": torch.ones(3)}))
    with zipfile.ZipFile(stream, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("archive/data/0", b"\0" * 12)
    with pytest.raises(CorruptFileError, match="share a name"):
        read(stream.getvalue())


def test_entries_that_overlap_are_refused() -> None:
    """Write a zip bomb without compression: many names for the same bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a/data.pkl", b"\0" * 4096)
        for i in range(8):
            again = copy.copy(archive.filelist[0])
            again.filename = f"a/data/{i}"
            archive.filelist.append(again)
    with pytest.raises(CorruptFileError, match="overlap"):
        read(stream.getvalue())


def test_a_list_of_entries_that_would_fill_the_memory_is_refused() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a/data.pkl", b"")
        archive.filelist[0].comment = b"." * 60_000
        archive.filelist += archive.filelist * 80
    with pytest.raises(CorruptFileError, match="a list of entries of"):
        read(stream.getvalue())


def test_big_endian_storages_are_refused() -> None:
    big = rewritten(saved({"x": torch.ones(3)}), lambda name, data: b"big" if name.endswith("byteorder") else data)
    with pytest.raises(UnknownFormatError, match="little-endian"):
        read(big)


def test_torchscript_is_refused_as_a_program() -> None:
    stream = io.BytesIO()
    with pytest.warns(DeprecationWarning):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), stream)
    with pytest.raises(UnknownFormatError, match="TorchScript"):
        read(stream.getvalue())


def test_another_zip_archive_is_unknown_and_its_content_named() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("00000/img00000000.png", b"")
    with pytest.raises(UnknownFormatError, match=r"img00000000\.png"):
        read(stream.getvalue())


@BOTH
def test_a_view_outside_of_its_storage_is_refused(zipped: bool) -> None:
    data = saved({"x": torch.zeros(6, 1)[:2]}, zipped)  # offset 0, size (2, 1), stride (1, 1) in a storage of 6
    with pytest.raises(CorruptFileError, match="does not fit"):
        if zipped:
            read(rewritten(data, lambda name, entry: entry.replace(b"K\x00K\x02", b"K\x05K\x02")))
        else:
            read(data.replace(b"K\x00K\x02", b"K\x05K\x02"))


SAMPLE = {"x": torch.arange(6.0).reshape(2, 3), "n": [1, "two"], "args": argparse.Namespace(size=32)}


@BOTH
@given(data=st.data())
def test_truncated_files_are_refused(zipped: bool, data: st.DataObject) -> None:
    whole = saved(SAMPLE, zipped)
    size = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(InputError):
        read(whole[:size])


@BOTH
@given(data=st.data())
def test_damaged_files_are_read_or_refused(zipped: bool, data: st.DataObject) -> None:
    damaged = bytearray(saved(SAMPLE, zipped))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InputError):
        value = read(bytes(damaged)).value
        found = value.get("x") if isinstance(value, dict) else None
        if isinstance(found, TensorView):
            read(bytes(damaged)).tensors({"x": found})
