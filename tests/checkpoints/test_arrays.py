"""Files of arrays: whatever they hold, reading them executes nothing, ends soon, and fails with an error of ours."""

from __future__ import annotations

import pickle
import tempfile
import tracemalloc
import zipfile
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from dcp_deploy.checkpoints.arrays import ArrayFile, StoredArray, read_array_file
from dcp_deploy.errors import CorruptFileError, InputError, UnknownFormatError, UnsafeFileError

from . import assembler as a
from .array_files import ALONE, WRITERS
from .small_files import damaged

ARRAYS = {"first": np.float32([[0.5, -1.0]]), "second": np.float32([2.0, 3.0, 4.0])}


def read_all(path: Path) -> None:
    """Read every array of a file, as its users would."""
    waiting = [read_array_file(path).value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, StoredArray):
            value.tensor()
        elif isinstance(value, dict | list):
            waiting += value.values() if isinstance(value, dict) else value


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A small valid file in each format."""
    path = tmp_path_factory.mktemp("valid") / "a.npz"
    made = {}
    for name, write in WRITERS.items():
        write(ARRAYS, path)
        made[name] = path.read_bytes()
    ALONE["npy"](ARRAYS["first"], path)
    return {**made, "npy": path.read_bytes()}


@pytest.mark.parametrize("writer", sorted(WRITERS))
def test_names_shapes_and_values_are_read(tmp_path: Path, writer: str) -> None:
    WRITERS[writer](ARRAYS, tmp_path / "a.npz")
    file = read_array_file(tmp_path / "a.npz")
    assert {name: stored.shape for name, stored in file.value.items()} == {"first": (1, 2), "second": (3,)}
    assert file.value["second"].tensor().tolist() == [2.0, 3.0, 4.0]
    assert str(file).endswith("of {first [1, 2], second [3]}")


def test_containers_and_plain_values_are_kept(tmp_path: Path) -> None:
    torch.save({"a": [torch.ones(2), (1, "x")], 3: 0.5, None: "dropped", "none": None}, tmp_path / "a.pt")
    value = read_array_file(tmp_path / "a.pt").value
    assert value.keys() == {"a", "3", "none"} and value["a"][0].shape == (2,)
    assert (value["a"][1], value["3"], value["none"]) == ([1, "x"], 0.5, None)


def test_a_message_names_the_array(tmp_path: Path) -> None:
    torch.save({"a.png": {"latent": torch.tensor([torch.nan])}}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"a\.png\[latent\] of .*a\.pt holds values that are not finite"):
        read_array_file(tmp_path / "a.pt").value["a.png"]["latent"].tensor()


def test_weights_of_a_network_are_recognised() -> None:
    stored = StoredArray("x", (1,), lambda: torch.ones(1))
    assert ArrayFile("f", "k", {"state": {"conv.weight": stored}}).is_network
    assert not ArrayFile("f", "k", {"weight of age": stored}).is_network


def test_safetensors_with_a_header_that_starts_like_a_pickle(tmp_path: Path) -> None:
    for filler in range(600):
        save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors", metadata={"x": "." * filler})
        if (tmp_path / "a.safetensors").read_bytes()[:2] == b"\x80\x02":
            break
    else:
        pytest.fail("no header of 640 bytes was made")
    assert read_array_file(tmp_path / "a.safetensors").kind == "a safetensors file"


# ---- damaged ----


@pytest.mark.parametrize("form", [*sorted(WRITERS), "npy"])
def test_a_truncated_file_is_refused(contents: dict[str, bytes], form: str, tmp_path: Path) -> None:
    content = contents[form]
    for length in sorted({*range(0, len(content), 37), 1, 2, 9, len(content) - 1}):
        (tmp_path / "cut").write_bytes(content[:length])
        with pytest.raises(InputError):
            read_all(tmp_path / "cut")


@given(form=st.sampled_from([*sorted(WRITERS), "npy"]), seed=st.integers(0, 1 << 32))
def test_damage_never_causes_another_error_than_ours(contents: dict[str, bytes], form: str, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged"
        path.write_bytes(damaged(contents[form], list(contents.values()), Random(seed)))
        try:
            read_all(path)
        except InputError:
            return


# ---- hostile ----


def npy(header: str) -> bytes:
    padded = header.encode("latin-1") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 512), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -4), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (0,) }",
        "{'descr': '<f4', 'fortran_order': 3, 'shape': (1,), }",
        "{'descr': 'no type', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (4,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4,), 'more': 1}",
        "__import__('os').system('true')",
        "(" * 9000,
        "-" * 9000 + "1",
        "{" * 5000,
        "9" * 9000,
        "[1, 2",
        "'",
        "",
        "\x00",
        " \t1",
        "1L",
    ],
)
def test_hostile_headers_are_refused(tmp_path: Path, header: str) -> None:
    for content in (npy(header), npy(header) + bytes(16)):
        (tmp_path / "a.npy").write_bytes(content)
        with pytest.raises(InputError):
            read_all(tmp_path / "a.npy")


def test_a_header_of_python_2_is_read(tmp_path: Path) -> None:
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (4L,), }"
    (tmp_path / "a.npy").write_bytes(npy(header) + np.float32([1, 2, 3, 4]).tobytes())
    assert read_array_file(tmp_path / "a.npy").value.tensor().tolist() == [1, 2, 3, 4]


class Canary:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.mkdir, (str(self.path),)


def test_arrays_of_objects_are_refused_unread(tmp_path: Path) -> None:
    objects = np.array([Canary(tmp_path / "ran")], dtype=object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "a.npz", w=objects)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(InputError, match="Python objects"):
            read_all(tmp_path / name)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"w": Canary(tmp_path / "ran")}, protocol=4))
    with pytest.raises(UnsafeFileError, match="mkdir"):
        read_all(tmp_path / "a.pkl")
    assert not (tmp_path / "ran").exists()


def test_an_archive_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path: Path) -> None:
    header = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (20971520,), }")
    with (
        zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("w.npy", "w") as entry,
    ):
        entry.write(header)
        for _ in range(80):
            entry.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(CorruptFileError, match="far more memory"):
        read_all(tmp_path / "bomb.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_an_archive_with_a_long_list_of_entries_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "many.npz", "w") as archive:
        for index in range(150):
            archive.writestr(f"{index:.<30000}.npy", b"")
    with pytest.raises(CorruptFileError, match="a list of entries"):
        read_all(tmp_path / "many.npz")


def test_an_archive_compressed_as_numpy_never_does_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("w.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (), }") + bytes(4))
    with pytest.raises(CorruptFileError, match="never uses"):
        read_all(tmp_path / "a.npz")


def test_shared_containers_are_read_in_bounded_time(tmp_path: Path) -> None:
    """Ten thousand references to a list of ten thousand would make 100 million values."""
    inner = a.listed(*[a.number(1)] * 10_000) + pickle.MEMOIZE
    outer = a.listed(inner, *[pickle.BINGET + b"\x00"] * 10_000)
    (tmp_path / "a.pkl").write_bytes(a.whole(outer))
    with pytest.raises(CorruptFileError, match="steps"):
        read_all(tmp_path / "a.pkl")


def test_a_container_that_holds_itself_is_read_to_a_depth(tmp_path: Path) -> None:
    itself = pickle.EMPTY_LIST + pickle.MEMOIZE + pickle.BINGET + b"\x00" + pickle.APPEND
    (tmp_path / "a.pkl").write_bytes(a.whole(itself))
    assert read_array_file(tmp_path / "a.pkl").value == [[[[None]]]]


def test_other_content_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("age = 1")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("network.pth", "weights")
    for name, words in {"a.png": "a PNG image", "a.txt": "unknown", "a.zip": "network.pth\nUnzip it"}.items():
        with pytest.raises(UnknownFormatError, match=words):
            read_array_file(tmp_path / name)
    with pytest.raises(InputError, match="no such file"):
        read_array_file(tmp_path / "nowhere.npy")
