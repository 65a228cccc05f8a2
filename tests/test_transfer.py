"""One file from a real server on this machine that falters in every way a server can."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcp_deploy import transfer as transfer_module
from dcp_deploy.errors import MissingCapabilityError
from dcp_deploy.transfer import Patience, note_of, transfer

HASTE = Patience(connect=1, stall=0.15, attempts=3, pause=0.01, longest_pause=5)
CUT = 120_000  # where answers break off, of 300,000 bytes
Handler = BaseHTTPRequestHandler


class Server(Protocol):
    """What the tests use of conftest's FileServer."""

    body: bytes
    etag: str | None
    modified: str | None
    script: list[Callable[[Handler], None]]
    asked: list[dict[str, str]]
    sent: int
    url: str
    send: Callable[..., None]
    answer: Callable[..., None]
    close: Callable[[], None]


class Fetching:
    """``transfer`` into a folder of its own, and what it said."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.part = server, folder / "teacher.pkl.part"
        self.said: list[str] = []
        self.bars: list[tuple[int, int]] = []

    def __call__(self, *, url: str | None = None, pinned: bool = False, patience: Patience = HASTE) -> None:
        transfer(
            url or self.server.url,
            self.part,
            say=self.said.append,
            progress=lambda done, total: self.bars.append((done, total)),
            patience=patience,
            pinned=pinned,
            remedy="Give --teacher FILE.",
        )

    def refused(self, **settings: Any) -> MissingCapabilityError:
        with pytest.raises(MissingCapabilityError) as caught:
            self(**settings)
        assert "Give --teacher FILE." in caught.value.remedy
        return caught.value

    def interrupted(self) -> None:
        """Leave the first CUT bytes, as a kill would."""
        script = self.server.script
        self.server.script = [partial(self.server.send, stop=CUT), partial(self.server.answer, status=404)]
        self.refused()
        assert self.part.read_bytes() == self.server.body[:CUT]
        self.server.script, self.server.sent = script, 0
        self.server.asked.clear()

    @property
    def whole(self) -> bool:
        return self.part.read_bytes() == self.server.body


@pytest.fixture
def fetch(file_server: Server, tmp_path: Path) -> Fetching:
    return Fetching(file_server, tmp_path)


# ---- the whole file ----


def test_a_file_arrives_whole_and_says_its_size(file_server: Server, fetch: Fetching) -> None:
    fetch()
    assert fetch.whole
    assert fetch.said == ["the server has 0.3 MB"]
    assert fetch.bars[-1] == (0, 1)  # of 0.3 MB, in whole ones
    assert file_server.asked[0]["Accept-Encoding"] == "identity" and "Range" not in file_server.asked[0]


@pytest.mark.parametrize("chunked", [False, True], ids=["until the connection closes", "in chunks"])
def test_a_file_of_unknown_size_arrives_too(file_server: Server, fetch: Fetching, chunked: bool) -> None:
    def in_chunks(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(file_server.body), file_server.body))

    file_server.script = [in_chunks if chunked else partial(file_server.send, length_told=False)]
    fetch()
    assert fetch.whole
    assert "does not say how large" in fetch.said[0]


def test_redirects_are_followed_and_keep_the_range(file_server: Server, fetch: Fetching) -> None:
    fetch.interrupted()
    there = partial(file_server.answer, status=302, location="/elsewhere")
    file_server.script = [there, file_server.send]
    fetch()
    assert fetch.whole
    assert [asked["path"] for asked in file_server.asked] == ["/teacher.pkl", "/elsewhere"]
    assert file_server.asked[1]["Range"] == f"bytes={CUT}-"


# ---- going on ----


def test_it_goes_on_where_it_was_and_asks_for_the_rest_only(file_server: Server, fetch: Fetching) -> None:
    fetch.interrupted()
    fetch()
    assert fetch.whole
    assert file_server.sent == len(file_server.body) - CUT
    assert file_server.asked[0]["Range"] == f"bytes={CUT}-" and file_server.asked[0]["If-Range"] == '"one"'
    assert fetch.said[-1] == "the server has 0.3 MB; 0.1 MB of them are here already"


def test_within_one_run_a_broken_connection_goes_on_too(file_server: Server, fetch: Fetching) -> None:
    file_server.script = [partial(file_server.send, stop=CUT), file_server.send]
    fetch()
    assert fetch.whole and file_server.sent == len(file_server.body)
    assert any("trying again" in words for words in fetch.said)


def test_a_stall_is_cut_short_and_gone_on_from(file_server: Server, fetch: Fetching) -> None:
    file_server.script = [partial(file_server.send, stop=CUT, stall=30), file_server.send]
    fetch()
    assert fetch.whole and file_server.sent == len(file_server.body)
    assert any("stalled" in words for words in fetch.said)


def test_many_breaks_are_no_reason_to_give_up_while_bytes_come(file_server: Server, fetch: Fetching) -> None:
    file_server.script = [partial(file_server.send, stop=20_000)]
    fetch()
    assert fetch.whole and len(file_server.asked) == 15


def test_a_date_serves_where_there_is_no_etag(file_server: Server, fetch: Fetching) -> None:
    file_server.etag, file_server.modified = None, "Wed, 01 Jan 2025 00:00:00 GMT"
    fetch.interrupted()
    fetch()
    assert fetch.whole and file_server.sent == len(file_server.body) - CUT
    assert file_server.asked[0]["If-Range"] == file_server.modified


@pytest.mark.parametrize("etag", [None, 'W/"one"'], ids=["no version", "a weak one"])
def test_without_a_version_a_part_is_not_trusted_unless_the_hash_is_known(
    file_server: Server, fetch: Fetching, etag: str | None
) -> None:
    file_server.etag = etag
    fetch.interrupted()
    fetch()
    assert fetch.whole and "Range" not in file_server.asked[0]
    assert any("starting over" in words for words in fetch.said)


def test_without_a_version_a_known_hash_is_enough_to_go_on(file_server: Server, fetch: Fetching) -> None:
    file_server.etag = None
    fetch.interrupted()
    fetch(pinned=True)
    assert fetch.whole and file_server.sent == len(file_server.body) - CUT
    assert "If-Range" not in file_server.asked[0]


@pytest.mark.parametrize("ranges", [True, False], ids=["a good server", "one that knows no ranges"])
def test_a_file_that_changed_is_begun_anew(file_server: Server, fetch: Fetching, ranges: bool) -> None:
    fetch.interrupted()
    file_server.etag, file_server.body = '"two"', file_server.body[::-1]
    file_server.script = [partial(file_server.send, ranges=ranges)]
    fetch()
    assert fetch.whole
    assert any("starting over" in words for words in fetch.said)


def test_a_version_that_no_request_may_carry_is_none(file_server: Server, fetch: Fetching) -> None:
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

    def rest(handler: Handler) -> None:  # whatever If-Range says
        described = {"etag": '"one"', "last_modified": file_server.modified}
        told = {"content_range": f"bytes {CUT}-299999/300000", **described, **lie}
        file_server.answer(handler, 206, "x" * 100, **told)

    file_server.script = [rest, file_server.send]
    fetch()
    assert fetch.whole


def test_416_for_a_part_that_is_the_whole_file_means_done(file_server: Server, fetch: Fetching) -> None:
    file_server.script = [partial(file_server.send, length_told=False)]
    fetch()  # nobody said how long it is
    file_server.sent = 0
    fetch()
    assert file_server.asked[1]["Range"] == "bytes=300000-"
    assert fetch.whole and file_server.sent == 0


@pytest.mark.parametrize("told", [True, False], ids=["size told", "size not told"])
def test_416_for_a_longer_part_starts_over(file_server: Server, fetch: Fetching, told: bool) -> None:
    fetch.interrupted()
    if not told:
        note_of(fetch.part).write_text(json.dumps({"etag": file_server.etag}))
    file_server.body = file_server.body[: CUT // 2]
    past_the_end = partial(file_server.answer, status=416, content_range=f"bytes */{CUT // 2}")
    file_server.script = [past_the_end, file_server.send]
    fetch()
    assert fetch.whole


def test_a_part_that_is_whole_needs_no_server(file_server: Server, fetch: Fetching) -> None:
    fetch()
    file_server.asked.clear()
    fetch()
    assert file_server.asked == []


NOTES = ("", "[]", "{", '{"total": "many"}', '{"total": 5}', '{"colour": 5}', '{"etag": 5}', '{"etag": "a\\nb"}')


@pytest.mark.parametrize("note", [None, *NOTES], ids=repr)
def test_a_part_whose_note_cannot_be_read_is_begun_anew(file_server: Server, fetch: Fetching, note: str | None) -> None:
    fetch.interrupted()
    note_of(fetch.part).unlink()
    if note is not None:
        note_of(fetch.part).write_text(note)
    fetch()
    assert fetch.whole and "Range" not in file_server.asked[0]


# ---- servers that need patience, and those beyond it ----


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_busy_server_is_asked_again(file_server: Server, fetch: Fetching, status: int) -> None:
    busy = partial(file_server.answer, status=status)
    file_server.script = [busy, busy, file_server.send]
    fetch()
    assert fetch.whole and any(str(status) in words for words in fetch.said)


def test_it_waits_as_long_as_the_server_asks(file_server: Server, fetch: Fetching) -> None:
    file_server.script = [partial(file_server.answer, status=429, retry_after="1"), file_server.send]
    begin = time.monotonic()
    fetch()
    assert fetch.whole and time.monotonic() - begin >= 1  # what is asked for is no guess: no less may do


@pytest.mark.parametrize("wait", ["3600", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_it_does_not_wait_for_an_hour(file_server: Server, fetch: Fetching, wait: str) -> None:
    file_server.script = [partial(file_server.answer, status=503, retry_after=wait)]
    assert "asks to wait" in fetch.refused().message
    assert len(file_server.asked) == 1


def test_after_the_last_attempt_what_came_is_kept_and_told(file_server: Server, fetch: Fetching) -> None:
    busy = partial(file_server.answer, status=503)
    file_server.script = [partial(file_server.send, stop=CUT), busy]
    error = fetch.refused()
    assert "503" in error.message and "0.1 MB are kept" in error.remedy
    assert fetch.part.stat().st_size == CUT


def test_a_server_that_only_stalls_is_given_up(file_server: Server, fetch: Fetching) -> None:
    file_server.script = [partial(file_server.send, stop=0, stall=30)]
    assert "stalled" in fetch.refused().message
    assert len(file_server.asked) == HASTE.attempts


def test_a_server_that_promises_more_than_it_has_is_given_up(file_server: Server, fetch: Fetching) -> None:
    file_server.script = [partial(file_server.send, length=400_000)]
    assert "3 times in a row" in fetch.refused().message


def test_a_server_that_sends_nothing_is_given_up(file_server: Server, fetch: Fetching) -> None:
    file_server.script = [partial(file_server.answer, status=200)]
    assert "sent nothing" in fetch.refused().message


def test_one_that_speaks_no_http_is_given_up(file_server: Server, fetch: Fetching) -> None:
    file_server.script = [lambda handler: (handler.wfile.write(b"\x80\x02\x00 no status line\r\n\r\n"), None)[1]]
    assert "the connection failed" in fetch.refused().message


def test_nobody_listening_is_given_up(fetch: Fetching) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    error = fetch.refused(url=f"http://127.0.0.1:{port}/teacher.pkl")
    assert f"http://127.0.0.1:{port}/teacher.pkl" in error.message and "refused" in error.message


@pytest.mark.usefixtures("offline")
def test_a_name_without_an_address_is_told_at_once(fetch: Fetching) -> None:
    patience = Patience(pause=1000, longest_pause=2000)  # a second attempt would be noticed
    assert "no network" in fetch.refused(url="https://weights.invalid/teacher.pkl", patience=patience).message


class Answer:
    """As much of a response as its headers."""

    def __init__(self, **headers: str) -> None:
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


@given(
    st.text() | st.datetimes().map(lambda moment: moment.strftime("%a, %d %b %Y %H:%M:%S GMT")) | st.integers().map(str)
)
def test_whatever_a_server_asks_to_wait_is_a_time_or_nothing(value: str) -> None:
    wait = transfer_module._retry_after(Answer(retry_after=value))  # type: ignore[arg-type]
    assert wait is None or wait >= 0


# ---- answers that are not the file ----


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_refusal_is_final_and_quoted(file_server: Server, fetch: Fetching, status: int) -> None:
    page = "<html><head><title>Moved\n away</title></head><body>a long story</body></html>"
    file_server.script = [partial(file_server.answer, status=status, body=page)]
    error = fetch.refused()
    assert str(status) in error.message and error.message.endswith(": Moved away")
    assert len(file_server.asked) == 1


@pytest.mark.parametrize("told", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_page_in_place_of_the_file_is_refused_and_named(file_server: Server, fetch: Fetching, told: str) -> None:
    page = "\n <!DOCTYPE html><html><title>Google Drive - Quota exceeded</title></html>"
    fetch.interrupted()
    file_server.script = [partial(file_server.answer, status=200, body=page, content_type=told)]
    error = fetch.refused()
    assert "page" in error.message and "Google Drive - Quota exceeded" in error.message
    assert fetch.part.read_bytes() == file_server.body[:CUT]  # what came before is no worse for it


def test_json_in_place_of_the_file_is_refused_and_quoted(file_server: Server, fetch: Fetching) -> None:
    text = '{"requestStatus": {"statusCode": "NOT_FOUND"}}'
    file_server.script = [partial(file_server.answer, status=200, body=text, content_type="application/json")]
    assert "NOT_FOUND" in fetch.refused().message


@pytest.mark.parametrize("begin", [b"<", b"{"])
def test_a_safetensors_file_may_begin_with_a_bracket(file_server: Server, fetch: Fetching, begin: bytes) -> None:
    file_server.body = begin + bytes(7) + b"{}"
    fetch()
    assert fetch.whole


def test_a_compressed_answer_is_refused(file_server: Server, fetch: Fetching) -> None:
    file_server.script = [partial(file_server.send, content_encoding="gzip")]
    assert "gzip" in fetch.refused().message


def test_a_ring_of_redirects_is_refused(file_server: Server, fetch: Fetching) -> None:
    file_server.script = [partial(file_server.answer, status=302, location="/teacher.pkl")]
    assert "redirected more than 10 times" in fetch.refused().message
    assert len(file_server.asked) == 11


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/teacher.pkl"])
def test_redirects_to_other_protocols_are_refused(file_server: Server, fetch: Fetching, to: str) -> None:
    file_server.script = [partial(file_server.answer, status=302, location=to)]
    assert to.split("/")[0] in fetch.refused().message
    assert not fetch.part.exists()


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "file:///etc/passwd", "/etc/passwd", "teacher.pkl"])
def test_other_protocols_are_refused_without_a_request(fetch: Fetching, url: str) -> None:
    assert url in fetch.refused(url=url).message


# ---- TLS ----


@pytest.fixture
def trusted(secure_server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    certificate = Path(__file__).parent / "data" / "tls" / "localhost.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    return secure_server


def test_a_redirect_from_https_to_http_is_refused(trusted: Server, file_server: Server, tmp_path: Path) -> None:
    trusted.script = [partial(trusted.answer, status=302, location=file_server.url)]
    error = Fetching(trusted, tmp_path).refused()
    assert "http://127.0.0.1, which is not safe" in error.message
    assert file_server.asked == []


def test_a_redirect_from_https_to_https_is_followed(trusted: Server, tmp_path: Path) -> None:
    trusted.script = [partial(trusted.answer, status=302, location="/elsewhere"), trusted.send]
    fetch = Fetching(trusted, tmp_path)
    fetch()
    assert fetch.whole


def test_a_certificate_nobody_signed_is_refused_at_once(
    secure_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    patience = Patience(pause=1000, longest_pause=2000)  # a second attempt would be noticed
    assert "certificate" in Fetching(secure_server, tmp_path).refused(patience=patience).message
    assert secure_server.asked == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ALL_PROXY", "socks9://127.0.0.1:1"),
        ("ALL_PROXY", "http://127.0.0.1:port"),
        ("SSL_CERT_FILE", "/nowhere/at-all.pem"),
    ],
)
def test_settings_of_the_machine_that_do_not_work_are_told(
    fetch: Fetching, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert "settings of this machine" in fetch.refused().message


# ---- room ----


def test_too_little_space_is_found_out_before_the_body(
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


def test_a_disk_that_fills_up_keeps_what_came(
    fetch: Fetching, file_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(done: int, total: int) -> None:
        if fetch.part.stat().st_size > CUT:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left"):
        transfer(
            file_server.url, fetch.part, say=fetch.said.append, progress=full, patience=HASTE, pinned=False, remedy=""
        )
    kept = fetch.part.stat().st_size
    assert kept > CUT
    file_server.sent = 0
    fetch()
    assert fetch.whole and file_server.sent == len(file_server.body) - kept


@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
def test_more_than_any_teacher_is_refused(
    fetch: Fetching, file_server: Server, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    monkeypatch.setattr(transfer_module, "LARGEST", CUT)
    file_server.script = [partial(file_server.send, length_told=told)]
    assert "no teacher is" in fetch.refused().message
    assert not fetch.part.exists()


# ---- killed ----

COMMAND = """
import sys
from pathlib import Path
from dcp_deploy.transfer import Patience, transfer
transfer(sys.argv[1], Path(sys.argv[2]), say=print, progress=lambda done, total: None, patience=Patience(),
         pinned=False, remedy="")
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
def test_a_process_that_was_stopped_costs_no_byte(
    killed: Callable[[int], None], file_server: Server, fetch: Fetching, number: int
) -> None:
    killed(number)
    assert json.loads(note_of(fetch.part).read_text())["total"] == len(file_server.body)
    fetch()
    assert fetch.whole
    # The first process got CUT bytes and this one the rest; what the server still sent to the dead one is in neither.
    assert file_server.asked[-1]["Range"] == f"bytes={CUT}-"
