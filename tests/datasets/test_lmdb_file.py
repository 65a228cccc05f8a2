"""The LMDB reader against files that the LMDB library wrote."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dcp_deploy.datasets.lmdb_file import LmdbFile, is_lmdb
from dcp_deploy.errors import CorruptFileError

NewLmdb = Callable[..., Path]

# Small values are stored in the leaves; values above a quarter of a page have pages of their own.
ENTRIES = {f"key {index:04}".encode(): bytes([index % 256]) * (index * 37 % 9000) for index in range(600)}


def read_all(path: Path) -> dict[bytes, bytes]:
    file = LmdbFile(path)
    return {key: file.read(offset, size) for key, offset, size in file.entries()}


def test_all_entries_come_in_order_with_their_values(new_lmdb: NewLmdb) -> None:
    path = new_lmdb(ENTRIES) / "data.mdb"
    assert is_lmdb(path)
    assert list(read_all(path).items()) == sorted(ENTRIES.items())


def test_the_latest_transaction_is_read(new_lmdb: NewLmdb) -> None:
    folder = new_lmdb(ENTRIES)
    before = LmdbFile(folder / "data.mdb").state
    for generation in range(3):  # the two meta pages take turns
        with lmdb.open(str(folder), map_size=2**26) as database, database.begin(write=True) as transaction:
            transaction.put(b"key 0003", b"changed")
            transaction.delete(f"key {generation + 10:04}".encode())
        left = {
            key: value for key, value in ENTRIES.items() if not b"key 0010" <= key <= b"key %04d" % (generation + 10)
        }
        assert read_all(folder / "data.mdb") == {**left, b"key 0003": b"changed"}
    assert LmdbFile(folder / "data.mdb").state != before


def test_an_empty_database_has_no_entries(new_lmdb: NewLmdb) -> None:
    assert read_all(new_lmdb({}) / "data.mdb") == {}


def test_a_database_in_a_single_file_is_read(new_lmdb: NewLmdb) -> None:
    assert read_all(new_lmdb({b"a": b"1"}, "single.lmdb", subdir=False)) == {b"a": b"1"}


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.binary(min_size=1, max_size=200), st.binary(max_size=5000), max_size=60))
def test_any_keys_and_values_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, values: dict[bytes, bytes]
) -> None:
    path = tmp_path_factory.mktemp("lmdb")
    with lmdb.open(str(path), map_size=2**26, sync=False) as database, database.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key, value)
    assert read_all(path / "data.mdb") == values


@pytest.mark.parametrize("share", [0.0001, 0.001, 0.1, 0.5, 0.9])
def test_an_incomplete_file_is_refused_without_killing_the_process(new_lmdb: NewLmdb, share: float) -> None:
    path = new_lmdb(ENTRIES) / "data.mdb"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CorruptFileError, match=r"data\.mdb is not a complete LMDB file"):
        read_all(path)


def test_damage_is_harmless_or_raises_our_error(new_lmdb: NewLmdb) -> None:
    path = new_lmdb({key: value[:3000] for key, value in list(ENTRIES.items())[:150]}) / "data.mdb"
    content, draw = path.read_bytes(), random.Random(0)
    pages = len(content) // 4096
    refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(draw.choice([1, 10])):  # in the page header and its offsets
            damaged[draw.randrange(pages) * 4096 + draw.randrange(160)] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            read_all(path)
        except CorruptFileError:
            refused += 1
    assert refused > 15  # many bytes hit values or free pages; 23 were refused


def test_a_tree_with_a_cycle_is_refused(new_lmdb: NewLmdb) -> None:
    path = new_lmdb(ENTRIES) / "data.mdb"
    content = bytearray(path.read_bytes())
    branches = [at for at in range(8192, len(content), 4096) if content[at + 10] == 1]
    for at in branches:
        for pointer in range(16, 16 + 2 * 4, 2):
            node = at + int.from_bytes(content[at + pointer : at + pointer + 2], "little")
            content[node : node + 6] = (at // 4096).to_bytes(6, "little")  # a child that is also its parent
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match="its tree"):
        read_all(path)


def test_a_sub_database_is_refused(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path), map_size=2**20, max_dbs=1) as database:
        database.open_db(b"inner")
    with pytest.raises(CorruptFileError, match="several values per key"):
        read_all(tmp_path / "data.mdb")


def test_another_file_is_not_an_lmdb(tmp_path: Path) -> None:
    path = tmp_path / "data.mdb"
    path.write_bytes(b"\0" * 10_000)
    assert not is_lmdb(path)
    with pytest.raises(CorruptFileError, match="not an LMDB meta page"):
        LmdbFile(path)
