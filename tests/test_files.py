from __future__ import annotations

import hashlib
import math
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcp_deploy.files import atomic_path, read_json, sha256_file, write_json

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


def test_a_result_is_readable_by_others(target: Path) -> None:
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"new")
    assert stat.S_IMODE(target.stat().st_mode) == 0o644


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
