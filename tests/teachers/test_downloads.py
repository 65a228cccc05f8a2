"""Teachers are fetched into the cache, checked and recorded."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from dcp_deploy.errors import CorruptFileError, MissingCapabilityError
from dcp_deploy.files import cache_folder
from dcp_deploy.teachers import downloads
from dcp_deploy.teachers.downloads import announcement, cached, cached_path, direct_url, fetch
from dcp_deploy.teachers.presets import DATASETS, Teacher
from dcp_deploy.teachers.transfer import note_of

from ..conftest import HASTE
from ..file_server import FileServer

CUT = 120_000
Handler = BaseHTTPRequestHandler


@pytest.fixture
def teacher(file_server: FileServer) -> Teacher:
    return Teacher("teacher.pkl", "NVIDIA pickle", "for tests only", file_server.url, "https://example.invalid/page", 7)


@pytest.fixture(autouse=True)
def haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "PATIENCE", HASTE)


def get(teacher: Teacher, said: list[str] | None = None) -> downloads.Fetched:
    said = [] if said is None else said
    return fetch(teacher, say=said.append, progress=lambda done, total: None)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# ---- into the cache and out of it ----


def test_a_fetched_file_is_recorded_and_reused(file_server: FileServer, teacher: Teacher) -> None:
    first = get(teacher)
    assert first.path.read_bytes() == file_server.body
    assert (first.origin, first.sha256, first.bytes) == ("fetched", sha256(file_server.body), 300_000)
    record = json.loads(first.path.with_name("teacher.pkl.json").read_text())
    assert record["sha256"] == first.sha256 and record["url"] == teacher.url and record["licence"] == "for tests only"
    said: list[str] = []
    again = get(teacher, said)
    assert again == replace(first, origin="cache")
    assert len(file_server.asked) == 1
    assert str(first.path) in said[0] and "for tests only" in said[0]


def test_only_the_file_its_record_and_its_lock_remain(teacher: Teacher) -> None:
    folder = get(teacher).path.parent
    assert {path.name for path in folder.iterdir()} <= {"teacher.pkl", "teacher.pkl.json", "teacher.pkl.lock"}


def test_file_address_size_and_licence_are_announced_before_the_request(
    file_server: FileServer, teacher: Teacher
) -> None:
    requests_before_message: list[int] = []
    fetch(
        teacher,
        say=lambda text: requests_before_message.append(len(file_server.asked)),
        progress=lambda done, total: None,
    )
    assert requests_before_message[0] == 0
    words = announcement(teacher)
    assert all(part in words for part in ("teacher.pkl", file_server.url, "about 7 MB", "for tests only"))


def test_an_unknown_size_is_announced_as_unknown(teacher: Teacher) -> None:
    assert "size known only to the server" in announcement(replace(teacher, megabytes=None))


def test_files_of_one_name_from_two_addresses_do_not_collide(file_server: FileServer, teacher: Teacher) -> None:
    first = get(teacher)
    file_server.body = file_server.body[::-1]
    second = get(replace(teacher, url=f"{file_server.url}?other"))
    assert first.path != second.path and first.path.read_bytes() != second.path.read_bytes()


def test_the_cache_folder_comes_from_the_variable_else_from_the_user(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert cache_folder() == own_cache
    monkeypatch.delenv("DCP_DEPLOY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "dcp-deploy"


def test_a_file_is_fetched_into_the_cache_folder(own_cache: Path, teacher: Teacher) -> None:
    assert get(teacher).path.is_relative_to(own_cache)


def test_a_cache_that_cannot_be_written_is_named_in_the_error(
    teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DCP_DEPLOY_CACHE", str(tmp_path / "file"))
    with pytest.raises(MissingCapabilityError, match="DCP_DEPLOY_CACHE"):
        get(teacher)


def test_the_cached_path_is_found_without_a_request(file_server: FileServer, teacher: Teacher) -> None:
    assert cached_path(teacher) is None and cached(teacher) is None
    assert cached_path(DATASETS["demo"].teacher) is None
    assert get(teacher).path == cached_path(teacher)
    assert len(file_server.asked) == 1


# ---- hashes ----


def test_a_file_with_the_pinned_hash_is_accepted(file_server: FileServer, teacher: Teacher) -> None:
    pinned = replace(teacher, sha256=sha256(file_server.body))
    assert get(pinned).sha256 == pinned.sha256


def test_a_file_with_another_hash_is_removed_and_both_hashes_named(file_server: FileServer, teacher: Teacher) -> None:
    wanted = sha256(b"something else")
    with pytest.raises(CorruptFileError) as caught:
        get(replace(teacher, sha256=wanted))
    assert wanted in caught.value.message and sha256(file_server.body) in caught.value.message
    assert "--teacher FILE" in caught.value.remedy
    assert not list(cache_folder().rglob("*.pkl")) and not list(cache_folder().rglob("*.part*"))


def test_a_file_corrupted_on_the_way_is_fetched_again(file_server: FileServer, teacher: Teacher) -> None:
    good = file_server.body
    pinned = replace(teacher, sha256=sha256(good))
    file_server.body = good[:CUT] + b"\0" + good[CUT + 1 :]
    with pytest.raises(CorruptFileError):
        get(pinned)
    file_server.body = good
    assert get(pinned).path.read_bytes() == good


def test_a_cached_file_that_changed_is_refused(teacher: Teacher) -> None:
    path = get(teacher).path
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(CorruptFileError, match="recorded") as caught:
        get(teacher)
    assert str(path.parent) in caught.value.remedy


def test_a_cached_file_with_another_hash_than_the_pinned_one_is_refused(
    file_server: FileServer, teacher: Teacher
) -> None:
    get(teacher)
    with pytest.raises(CorruptFileError, match="pinned"):
        get(replace(teacher, sha256=sha256(b"something else")))
    assert get(replace(teacher, sha256=sha256(file_server.body))).origin == "cache"


def test_a_file_that_was_replaced_on_the_server_is_noticed(file_server: FileServer, teacher: Teacher) -> None:
    first = get(teacher)
    first.path.unlink()
    file_server.body = file_server.body[::-1]
    with pytest.raises(CorruptFileError, match="recorded") as caught:
        get(teacher)
    assert first.sha256 in caught.value.message and str(first.path.parent) in caught.value.remedy


def test_a_file_without_its_record_is_fetched_again(file_server: FileServer, teacher: Teacher) -> None:
    path = get(teacher).path
    path.with_name("teacher.pkl.json").write_text("{")
    assert get(teacher).origin == "fetched"
    assert len(file_server.asked) == 2


def test_a_kill_between_the_last_byte_and_the_rename_loses_nothing(file_server: FileServer, teacher: Teacher) -> None:
    part = get(teacher).path.rename(cache_folder() / "somewhere")
    (path,) = cache_folder().rglob("teacher.pkl.json")
    part = part.rename(path.with_name("teacher.pkl.part"))
    note_of(part).write_text(json.dumps({"total": 300_000, "etag": '"one"'}))
    assert cached_path(teacher) is None
    assert get(teacher).path.read_bytes() == file_server.body
    assert len(file_server.asked) == 1


# ---- Google Drive ----


@pytest.mark.parametrize(
    "share",
    [
        "https://drive.google.com/open?id=1PQutd-JboOCOZ_md95",
        "https://drive.google.com/uc?id=1PQutd-JboOCOZ_md95&export=download",
        "https://drive.google.com/file/d/1PQutd-JboOCOZ_md95/view?usp=sharing",
    ],
)
def test_a_share_link_becomes_the_address_of_the_bytes(share: str) -> None:
    direct = "https://drive.usercontent.google.com/download?id=1PQutd-JboOCOZ_md95&export=download&confirm=t"
    assert direct_url(share) == direct
    assert direct_url(direct) == direct


def test_the_rosinality_teacher_is_fetched_from_its_direct_address() -> None:
    assert "drive.usercontent.google.com/download?id=1PQutd-" in announcement(DATASETS["ffhq256"].teacher)


# ---- two processes ----

COMMAND = """
import sys
from dcp_deploy.teachers.downloads import fetch
from dcp_deploy.teachers.presets import Teacher
teacher = Teacher("teacher.pkl", "NVIDIA pickle", "for tests only", sys.argv[1])
print(fetch(teacher, say=lambda text: print(text, file=sys.stderr), progress=lambda done, total: None).origin)
"""


def test_two_processes_fetch_one_file_once(file_server: FileServer, teacher: Teacher) -> None:
    file_server.script = [partial(file_server.send, stop=CUT, stall=0.7), file_server.send]
    command = [sys.executable, "-c", COMMAND, file_server.url]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": dict(os.environ)}
    processes = [subprocess.Popen(command, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    ended = [process.communicate(timeout=60) for process in processes]
    assert sorted(out.strip() for out, _ in ended) == ["cache", "fetched"], ended
    assert file_server.sent == len(file_server.body)
    assert cached(teacher) is not None
