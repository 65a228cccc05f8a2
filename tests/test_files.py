from __future__ import annotations

import hashlib
import math
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcp_deploy import files
from dcp_deploy.errors import UsageError
from dcp_deploy.files import (
    atomic_path,
    exchange,
    kept,
    read_json,
    remove_scratch,
    result_of,
    scratch_folder,
    sha256_file,
    write_bytes,
    write_json,
    write_text,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "student.onnx"
    path.write_bytes(b"old")
    return path


def test_a_written_file_replaces_the_old_one_and_leaves_nothing_else(target: Path) -> None:
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert list(target.parent.iterdir()) == [target]


def test_the_temporary_file_lies_beside_the_target(target: Path) -> None:
    # A rename is atomic only within one file system.
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent


def test_missing_folders_are_made(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "engines" / "a" / "x.engine") as temporary:
        temporary.write_bytes(b"x")
    assert (tmp_path / "engines" / "a" / "x.engine").read_bytes() == b"x"


def test_an_exception_keeps_the_old_file_and_removes_the_temporary_one(target: Path) -> None:
    with pytest.raises(RuntimeError, match="half way"), atomic_path(target) as temporary:
        temporary.write_bytes(b"ne")
        raise RuntimeError("half way")
    assert target.read_bytes() == b"old"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_result_has_the_rights_that_the_umask_allows(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_bytes(tmp_path / "new", b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o666 & ~mask


def test_an_overwritten_file_keeps_its_rights(target: Path) -> None:
    target.chmod(0o640)
    write_bytes(target, b"new")
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_a_result_goes_through_a_link_to_the_file_behind_it(target: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(target)
    write_bytes(tmp_path / "link", b"new")
    assert target.read_bytes() == b"new" and (tmp_path / "link").is_symlink()


def test_a_link_to_a_file_that_does_not_exist_yet_makes_it(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "later")
    write_bytes(tmp_path / "link", b"new")
    assert (tmp_path / "later").read_bytes() == b"new" and (tmp_path / "link").is_symlink()


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (Path.mkdir, "a folder"),
        (os.mkfifo, "a pipe"),
        (make_socket, "a socket"),
        (lambda path: path.symlink_to("/dev/full"), "a device"),
        (lambda path: path.symlink_to("a"), "symbolic links"),
    ],
)
def test_a_result_replaces_files_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], named: str
) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket may have 107 characters
    make(Path("a"))
    with pytest.raises(UsageError, match=named):
        write_bytes("a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("name", ["student.onnx", "hard", "link", "./x/../student.onnx"])
def test_an_input_is_not_overwritten_under_any_name(target: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "hard").hardlink_to(target)
    (tmp_path / "link").symlink_to(target)
    with kept([target]), pytest.raises(UsageError, match="this command reads"):
        write_bytes(tmp_path / name, b"new")
    assert target.read_bytes() == b"old"


def test_a_file_in_an_input_folder_is_not_overwritten_but_a_new_one_is_written(target: Path) -> None:
    with kept([target.parent]):
        with pytest.raises(UsageError, match="this command reads"):
            write_bytes(target, b"new")
        write_bytes(target.with_name("other"), b"new")
    assert target.read_bytes() == b"old"


def test_a_name_as_long_as_the_file_system_takes_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 127)
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"


def test_scratch_of_killed_writers_is_removed_and_that_of_running_ones_kept(target: Path) -> None:
    left = target.with_name(".a.0123456789abcdef.tmp")
    other = target.with_name(".a.tmp")  # not one of ours
    left.touch()
    other.touch()
    with atomic_path(target) as temporary:
        remove_scratch(target.parent)
        assert temporary.is_file()
        temporary.write_bytes(b"new")
    assert {path.name for path in target.parent.iterdir()} == {target.name, other.name}


def test_scratch_folders_are_removed_at_the_end_and_those_of_killed_writers_by_the_next(target: Path) -> None:
    left = target.with_name(".b.0123456789abcdef.tmp")
    left.mkdir()
    (left / "half").write_text("written")
    with scratch_folder(target) as temporary:
        (temporary / "a").touch()
        remove_scratch(target.parent)
        assert (temporary / "a").is_file() and not left.exists()
    assert list(target.parent.iterdir()) == [target]


def test_scratch_names_its_result(target: Path) -> None:
    with atomic_path(target) as temporary:
        assert result_of(temporary) == target.name
        temporary.touch()
    assert result_of(Path("run/.a.b.json.0123456789abcdef.tmp")) == "a.b.json"
    assert result_of(Path("run/a.json")) is None and result_of(Path("run/.x.tmp")) is None


@pytest.mark.parametrize("atomic", [True, False])
def test_two_folders_are_exchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, atomic: bool) -> None:
    if not atomic:
        monkeypatch.setattr(files.ctypes, "CDLL", lambda name: None)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "is").write_text(name)
    exchange(tmp_path / "a", tmp_path / "b")
    assert [(tmp_path / name / "is").read_text() for name in ("a", "b")] == ["b", "a"]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", ["x", "new/x", "new/er/x"])
def test_folders_that_a_failed_write_had_made_are_removed(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no"), atomic_path(tmp_path / name):
        raise ValueError("no")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["NaN", '{"a": Infinity}', "[" * 100_000, "{", "\x00"])
def test_what_is_not_json_is_a_value_error(target: Path, text: str) -> None:
    target.write_text(text)
    with pytest.raises(ValueError, match=r"JSON|nested|Expecting"):
        read_json(target)


def test_a_kill_during_a_write_keeps_the_old_file(target: Path) -> None:
    script = (
        "import sys, time\n"
        "from dcp_deploy.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as temporary, temporary.open('wb') as stream:\n"
        "    stream.write(b'ne')\n"
        "    stream.flush()\n"
        "    print('half way', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, target], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "half way\n"
        writer.send_signal(signal.SIGKILL)
    assert writer.returncode == -signal.SIGKILL
    assert target.read_bytes() == b"old"
    write_json(target, "new")  # what the killed writer left does not disturb a new write
    assert read_json(target) == "new"


def test_a_full_disk_keeps_the_old_file_and_removes_the_temporary_one(target: Path) -> None:
    # A limit on file size makes the kernel refuse the write just as a full disk does, and needs no privileges.
    script = (
        "import resource, sys\n"
        "from dcp_deploy.files import atomic_path\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    with atomic_path(sys.argv[1]) as temporary:\n"
        "        temporary.write_bytes(bytes(10_000))\n"
        "except OSError as error:\n"
        "    print(type(error).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, target], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "OSError\n"
    assert target.read_bytes() == b"old"
    assert list(target.parent.iterdir()) == [target]


@given(value=JSON)
def test_json_reads_back_the_same(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    assert read_json(path) == value


@pytest.mark.parametrize("value", [math.nan, math.inf, object()])
def test_values_that_json_cannot_hold_are_refused_and_keep_the_old_file(target: Path, value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        write_json(target, {"fid": value})
    assert target.read_bytes() == b"old"


@given(content=st.binary(max_size=1000))
def test_sha256_file_hashes_the_content(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "content.bin"
    path.write_bytes(content)
    assert sha256_file(path) == hashlib.sha256(content).hexdigest()


def test_names_in_no_encoding_do_not_stop_a_text_or_a_document(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "a\udcff")
    write_json(tmp_path / "a.json", {"a\udcff": ["b\udcff"]})
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == r"a\udcff"
    assert read_json(tmp_path / "a.json") == {r"a\udcff": [r"b\udcff"]}


@pytest.mark.parametrize(
    "record", ['{"stages": {"bench": {"outputs": {"bench.json": "0"}}}}', "[]", "{", '{"stages": 7}']
)
def test_the_record_and_the_results_of_a_run_that_is_read_are_not_replaced(tmp_path: Path, record: str) -> None:
    for name in ("run.json", "bench.json", "own.json"):
        (tmp_path / name).write_text(record)
    with kept([tmp_path]):
        for name in ("run.json", *(["bench.json"] if "bench" in record else [])):
            with pytest.raises(UsageError, match="which this command reads"):
                write_text(tmp_path / name, "other")
        write_text(tmp_path / "own.json", "again")
        write_text(tmp_path / "new.json", "new")
    assert (tmp_path / "run.json").read_text() == record
