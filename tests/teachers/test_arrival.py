"""The whole file arrives, over any number of connections and runs."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from dcp_deploy.errors import MissingCapabilityError
from dcp_deploy.teachers import transfer as transfer_module
from dcp_deploy.teachers.transfer import Transfer, note_of

from .conftest import CUT, HASTE, Fetching, Handler, Server

# ---- the whole file ----


def test_the_whole_file_arrives_and_its_size_is_announced(file_server: Server, fetch: Fetching) -> None:
    fetch()
    assert fetch.whole
    assert fetch.said == ["the server has 0.3 MB"]
    assert fetch.bars[-1] == (0, 1)  # 0.3 MB in whole MB
    assert file_server.asked[0]["Accept-Encoding"] == "identity" and "Range" not in file_server.asked[0]


@pytest.mark.parametrize("chunked", [False, True], ids=["until the connection closes", "in chunks"])
def test_a_file_of_unknown_size_arrives_too(file_server: Server, fetch: Fetching, chunked: bool) -> None:
    def in_chunks(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(file_server.body), file_server.body))

    file_server.script = [in_chunks if chunked else partial(file_server.send, send_length=False)]
    fetch(pinned=not chunked)
    assert fetch.whole
    assert "does not say how large" in fetch.said[0]


def test_redirects_are_followed_and_keep_the_range(file_server: Server, fetch: Fetching) -> None:
    fetch.interrupted()
    redirect = partial(file_server.answer, status=302, location="/elsewhere")
    file_server.script = [redirect, file_server.send]
    fetch()
    assert fetch.whole
    assert [asked["path"] for asked in file_server.asked] == ["/teacher.pkl", "/elsewhere"]
    assert file_server.asked[1]["Range"] == f"bytes={CUT}-"


# ---- resuming ----


def test_an_interrupted_transfer_requests_only_the_rest(file_server: Server, fetch: Fetching) -> None:
    fetch.interrupted()
    fetch()
    assert fetch.whole
    assert file_server.sent == len(file_server.body) - CUT
    assert file_server.asked[0]["Range"] == f"bytes={CUT}-" and file_server.asked[0]["If-Range"] == '"one"'
    assert fetch.said[-1] == "the server has 0.3 MB; 0.1 MB of them are on this disk already"


def test_a_broken_connection_is_resumed_within_one_run(file_server: Server, fetch: Fetching) -> None:
    file_server.script = [partial(file_server.send, stop=CUT), file_server.send]
    fetch()
    assert fetch.whole and file_server.sent == len(file_server.body)
    assert any("trying again" in words for words in fetch.said)


def test_a_stalled_connection_is_closed_and_resumed(file_server: Server, fetch: Fetching) -> None:
    file_server.script = [partial(file_server.send, stop=CUT, stall=30), file_server.send]
    fetch()
    assert fetch.whole and file_server.sent == len(file_server.body)
    assert any("stalled" in words for words in fetch.said)


def test_many_breaks_are_tolerated_while_bytes_arrive(file_server: Server, fetch: Fetching) -> None:
    file_server.script = [partial(file_server.send, stop=20_000)]
    fetch()
    assert fetch.whole and len(file_server.asked) == 15


def test_the_date_identifies_a_file_without_etag(file_server: Server, fetch: Fetching) -> None:
    file_server.etag, file_server.modified = None, "Wed, 01 Jan 2025 00:00:00 GMT"
    fetch.interrupted()
    fetch()
    assert fetch.whole and file_server.sent == len(file_server.body) - CUT
    assert file_server.asked[0]["If-Range"] == file_server.modified


@pytest.mark.parametrize("etag", [None, 'W/"one"'], ids=["no version", "a weak version"])
def test_a_part_without_a_version_is_fetched_from_the_start(
    file_server: Server, fetch: Fetching, etag: str | None
) -> None:
    file_server.etag = etag
    fetch.interrupted()
    fetch()
    assert fetch.whole and "Range" not in file_server.asked[0]
    assert any("starting over" in words for words in fetch.said)


def test_a_part_without_a_version_is_resumed_if_the_hash_is_known(file_server: Server, fetch: Fetching) -> None:
    file_server.etag = None
    fetch.interrupted()
    fetch(pinned=True)
    assert fetch.whole and file_server.sent == len(file_server.body) - CUT
    assert "If-Range" not in file_server.asked[0]


@pytest.mark.parametrize("ranges", [True, False], ids=["with ranges", "without ranges"])
def test_a_file_that_changed_is_fetched_from_the_start(file_server: Server, fetch: Fetching, ranges: bool) -> None:
    fetch.interrupted()
    file_server.etag, file_server.body = '"two"', file_server.body[::-1]
    file_server.script = [partial(file_server.send, ranges=ranges)]
    fetch()
    assert fetch.whole
    assert any("starting over" in words for words in fetch.said)


def test_an_etag_that_no_request_may_carry_is_ignored(file_server: Server, fetch: Fetching) -> None:
    file_server.etag = '"\xe9"'
    fetch.interrupted()
    fetch()
    assert fetch.whole and "Range" not in file_server.asked[0]


@pytest.mark.parametrize(
    "lie",
    [
        {"etag": '"two"'},
        {"last_modified": "Thu, 02 Jan 2025 00:00:00 GMT"},
        {"content_range": "bytes 5-299999/300000"},
        {"content_range": f"bytes {CUT}-299999/300001"},
        {"content_range": "everything"},
    ],
    ids=str,
)
def test_the_rest_of_another_file_is_not_appended(file_server: Server, fetch: Fetching, lie: dict[str, str]) -> None:
    file_server.modified = "Wed, 01 Jan 2025 00:00:00 GMT"
    fetch.interrupted()

    def rest(handler: Handler) -> None:  # ignores If-Range
        described = {"etag": '"one"', "last_modified": file_server.modified}
        headers = {"content_range": f"bytes {CUT}-299999/300000", **described, **lie}
        file_server.answer(handler, 206, "x" * 100, **headers)

    file_server.script = [rest, file_server.send]
    fetch()
    assert fetch.whole


def test_416_for_a_part_that_is_the_whole_file_means_done(file_server: Server, fetch: Fetching) -> None:
    file_server.script = [partial(file_server.send, send_length=False)]
    fetch(pinned=True)  # the server did not say how long it is
    file_server.sent = 0
    fetch(pinned=True)
    assert file_server.asked[1]["Range"] == "bytes=300000-"
    assert fetch.whole and file_server.sent == 0


@pytest.mark.parametrize("announced", [True, False], ids=["size known", "size unknown"])
def test_416_for_a_longer_part_starts_over(file_server: Server, fetch: Fetching, announced: bool) -> None:
    fetch.interrupted()
    if not announced:
        note_of(fetch.part).write_text(json.dumps({"etag": file_server.etag}))
    file_server.body = file_server.body[: CUT // 2]
    past_the_end = partial(file_server.answer, status=416, content_range=f"bytes */{CUT // 2}")
    file_server.script = [past_the_end, file_server.send]
    fetch()
    assert fetch.whole


def test_a_complete_part_needs_no_request(file_server: Server, fetch: Fetching) -> None:
    fetch()
    file_server.asked.clear()
    fetch()
    assert file_server.asked == []


NOTES = ("", "[]", "{", '{"total": "many"}', '{"total": 5}', '{"colour": 5}', '{"etag": 5}', '{"etag": "a\\nb"}')


@pytest.mark.parametrize("note", [None, *NOTES], ids=repr)
def test_a_part_with_an_unusable_note_is_fetched_anew(file_server: Server, fetch: Fetching, note: str | None) -> None:
    fetch.interrupted()
    note_of(fetch.part).unlink()
    if note is not None:
        note_of(fetch.part).write_text(note)
    fetch()
    assert fetch.whole and "Range" not in file_server.asked[0]


# ---- disk space ----


def test_missing_disk_space_is_noticed_before_the_body(
    fetch: Fetching, file_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch.interrupted()
    monkeypatch.setattr(transfer_module, "free_space", lambda folder: len(file_server.body) - CUT - 1)
    with pytest.raises(MissingCapabilityError, match="no space"):
        fetch()
    assert fetch.part.stat().st_size == CUT
    monkeypatch.setattr(transfer_module, "free_space", lambda folder: len(file_server.body) - CUT)
    fetch()
    assert fetch.whole


def test_a_full_disk_keeps_the_bytes_that_arrived(
    fetch: Fetching, file_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(done: int, total: int) -> None:
        if fetch.part.stat().st_size > CUT:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left"):
        Transfer(
            url=file_server.url,
            part=fetch.part,
            say=fetch.said.append,
            progress=full,
            patience=HASTE,
            pinned=False,
            remedy="",
        ).run()
    kept = fetch.part.stat().st_size
    assert kept > CUT
    file_server.sent = 0
    fetch()
    assert fetch.whole and file_server.sent == len(file_server.body) - kept


@pytest.mark.parametrize("announced", [True, False], ids=["size known", "size unknown"])
def test_a_file_larger_than_any_teacher_is_refused(
    fetch: Fetching, file_server: Server, monkeypatch: pytest.MonkeyPatch, announced: bool
) -> None:
    monkeypatch.setattr(transfer_module, "LARGEST", CUT)
    file_server.script = [partial(file_server.send, send_length=announced)]
    assert "unlike any teacher" in fetch.refused().message
    assert not fetch.part.exists()


# ---- killed ----

COMMAND = """
import sys
from pathlib import Path
from dcp_deploy.teachers.pace import Patience
from dcp_deploy.teachers.transfer import Transfer
Transfer(url=sys.argv[1], part=Path(sys.argv[2]), say=print, progress=lambda done, total: None, patience=Patience(),
         pinned=False, remedy="").run()
"""


@pytest.fixture
def killed(file_server: Server, fetch: Fetching) -> Iterator[Callable[[int], None]]:
    def run_and_kill(number: int) -> None:
        file_server.script = [partial(file_server.send, stop=CUT, stall=30)]
        command = [sys.executable, "-c", COMMAND, file_server.url, str(fetch.part)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 60
            while not fetch.part.exists() or fetch.part.stat().st_size < CUT:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.005)
            process.send_signal(number)
        file_server.script = [file_server.send]

    yield run_and_kill


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_a_stopped_process_loses_no_byte(
    killed: Callable[[int], None], file_server: Server, fetch: Fetching, number: int
) -> None:
    killed(number)
    assert json.loads(note_of(fetch.part).read_text())["total"] == len(file_server.body)
    fetch()
    assert fetch.whole
    # The first process received CUT bytes and this one the rest; the server may have sent more to the dead one.
    assert file_server.asked[-1]["Range"] == f"bytes={CUT}-"
