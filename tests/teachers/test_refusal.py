"""Which failures are retried, which are final, and which answers are not the file."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcp_deploy.teachers import transfer as transfer_module
from dcp_deploy.teachers.pace import Patience
from dcp_deploy.teachers.transfer import QUOTED, _quote

from .conftest import CUT, HASTE, Fetching, Handler, Server

# ---- servers that falter, and servers that fail ----


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_busy_server_is_tried_again(file_server: Server, fetch: Fetching, status: int) -> None:
    busy = partial(file_server.answer, status=status)
    file_server.script = [busy, busy, file_server.send]
    fetch()
    assert fetch.whole and any(str(status) in words for words in fetch.said)


def test_the_pause_is_as_long_as_the_server_asks(
    file_server: Server, fetch: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(transfer_module.time, "sleep", pauses.append)
    file_server.script = [partial(file_server.answer, status=429, retry_after="3"), file_server.send]
    fetch()
    assert fetch.whole and pauses == [3]


@pytest.mark.parametrize("wait", ["3600", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_a_request_to_wait_for_an_hour_is_refused(file_server: Server, fetch: Fetching, wait: str) -> None:
    file_server.script = [partial(file_server.answer, status=503, retry_after=wait)]
    assert "asks to wait" in fetch.refused().message
    assert len(file_server.asked) == 1


def test_the_part_is_kept_and_named_after_the_last_attempt(file_server: Server, fetch: Fetching) -> None:
    busy = partial(file_server.answer, status=503)
    file_server.script = [partial(file_server.send, stop=CUT), busy]
    error = fetch.refused()
    assert "503" in error.message and "0.1 MB are kept" in error.remedy
    assert fetch.part.stat().st_size == CUT


def test_a_server_that_only_stalls_is_refused(file_server: Server, fetch: Fetching) -> None:
    file_server.script = [partial(file_server.send, stop=0, stall=30)]
    assert "stalled" in fetch.refused().message
    assert len(file_server.asked) == HASTE.attempts


def test_a_server_that_promises_more_than_it_sends_is_refused(file_server: Server, fetch: Fetching) -> None:
    file_server.script = [partial(file_server.send, length=400_000)]
    assert "3 times in a row" in fetch.refused().message


def test_a_server_that_sends_nothing_is_refused(file_server: Server, fetch: Fetching) -> None:
    file_server.script = [partial(file_server.answer, status=200)]
    assert "sent nothing" in fetch.refused().message


def test_a_server_that_does_not_speak_http_is_refused(file_server: Server, fetch: Fetching) -> None:
    file_server.script = [lambda handler: (handler.wfile.write(b"\x80\x02\x00 no status line\r\n\r\n"), None)[1]]
    assert "the connection failed" in fetch.refused().message


def test_a_port_without_a_server_is_refused(fetch: Fetching) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    error = fetch.refused(url=f"http://127.0.0.1:{port}/teacher.pkl")
    assert f"http://127.0.0.1:{port}/teacher.pkl" in error.message and "refused" in error.message


@pytest.mark.usefixtures("offline")
def test_an_unknown_host_is_refused_without_a_second_attempt(fetch: Fetching) -> None:
    patience = Patience(pause=1000, longest_pause=2000)  # a second attempt would be noticed
    assert "network is down" in fetch.refused(url="https://weights.invalid/teacher.pkl", patience=patience).message


class Answer:
    """The headers of a response."""

    def __init__(self, **headers: str) -> None:
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


@settings(max_examples=40)
@given(
    st.text() | st.datetimes().map(lambda moment: moment.strftime("%a, %d %b %Y %H:%M:%S GMT")) | st.integers().map(str)
)
def test_any_retry_after_header_gives_a_pause_or_none(value: str) -> None:
    wait = transfer_module._retry_after(Answer(retry_after=value))  # type: ignore[arg-type]
    assert wait is None or wait >= 0


# ---- answers that are not the file ----


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_an_error_status_is_final_and_quoted(file_server: Server, fetch: Fetching, status: int) -> None:
    page = "<html><head><title>Moved\n away</title></head><body>a long story</body></html>"
    file_server.script = [partial(file_server.answer, status=status, body=page)]
    error = fetch.refused()
    assert str(status) in error.message and error.message.endswith(": Moved away")
    assert len(file_server.asked) == 1


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_page_in_place_of_the_file_is_refused_and_named(file_server: Server, fetch: Fetching, kind: str) -> None:
    page = "\n <!DOCTYPE html><html><title>Google Drive - Quota exceeded</title></html>"
    fetch.interrupted()
    file_server.script = [partial(file_server.answer, status=200, body=page, content_type=kind)]
    error = fetch.refused()
    assert "page" in error.message and "Google Drive - Quota exceeded" in error.message
    assert fetch.part.read_bytes() == file_server.body[:CUT]  # the part of an earlier run stays


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


def endless(handler: Handler, block: bytes, *, pause: float = 0.0, **headers: str) -> None:
    """Send an answer that never ends."""
    handler.send_response(int(headers.pop("status", "200")))
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    while True:
        handler.wfile.write(block)
        handler.wfile.flush()
        time.sleep(pause)


def test_the_body_of_a_redirect_is_not_read(file_server: Server, fetch: Fetching) -> None:
    file_server.script = [
        partial(endless, block=bytes(10_000), status="302", location="/elsewhere"),
        file_server.send,
    ]
    fetch()
    assert fetch.whole


def test_an_error_page_without_an_end_is_quoted(file_server: Server, fetch: Fetching) -> None:
    file_server.script = [partial(endless, block=b"no such file ", status="404")]
    assert "404" in (message := fetch.refused().message) and "no such file" in message and len(message) < 400


def test_a_server_that_sends_too_slowly_is_refused(file_server: Server, fetch: Fetching) -> None:
    file_server.script = [partial(endless, block=b"\x80", pause=0.01)]
    patience = replace(HASTE, slowest=60_000, minute=0.1)
    assert "less than 60,000 bytes a minute" in fetch.refused(patience=patience).message


def drip(handler: Handler, begin: bytes, piece: bytes, *, pause: float = 0.01) -> None:
    """Send bytes as they are, then a piece again and again."""
    handler.close_connection = True
    handler.wfile.write(begin)
    while True:
        handler.wfile.write(piece)
        handler.wfile.flush()
        time.sleep(pause)


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("begin", "piece", "words"),
    [
        (b"", b"H", "headers take longer"),
        (OK, b"a: b\r\n", "headers take longer"),
        (OK + b"a: ", b"b", "headers take longer"),
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", "headers take longer"),
        (OK + b"transfer-encoding: chunked\r\n\r\n", b"1", "less than 60,000 bytes a minute"),
        (OK + b"transfer-encoding: chunked\r\n\r\n5;", b"a", "less than 60,000 bytes a minute"),
        (OK + b"transfer-encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n", b"a: b\r\n", "less than 60,000"),
    ],
    ids=["status", "headers", "a header", "preliminary answers", "chunk size", "chunk extension", "trailers"],
)
def test_what_surrounds_a_file_must_not_drip(
    file_server: Server, fetch: Fetching, begin: bytes, piece: bytes, words: str
) -> None:
    file_server.script = [partial(drip, begin=begin, piece=piece)]
    error = fetch.refused(patience=replace(HASTE, minute=0.1, stall=5.0))
    assert words in error.message and len(file_server.asked) == HASTE.attempts


@pytest.mark.parametrize("piece", [b"HTTP/1.1 100 Continue\r\n\r\n" * 500, b"HTTP/1.1 103 Hints\r\na: b\r\n\r\n" * 500])
def test_preliminary_answers_without_end_are_refused(file_server: Server, fetch: Fetching, piece: bytes) -> None:
    file_server.script = [partial(drip, begin=b"", piece=piece, pause=0.0)]
    assert "more than 256,000 bytes of headers" in fetch.refused().message


def test_header_lines_without_end_are_refused(file_server: Server, fetch: Fetching) -> None:
    file_server.script = [partial(drip, begin=OK, piece=b"a: b\r\n" * 500, pause=0.0)]
    assert "the connection failed" in fetch.refused().message


def test_a_server_that_breaks_off_after_each_byte_is_refused(file_server: Server, fetch: Fetching) -> None:
    file_server.script = [partial(file_server.send, stop=1)]
    assert "3 times in a row" in fetch.refused().message
    assert fetch.part.stat().st_size == 3


def test_slow_headers_after_a_redirect_are_refused(file_server: Server, fetch: Fetching) -> None:
    redirect = partial(file_server.answer, status=302, location="/elsewhere")
    slow = partial(drip, begin=OK, piece=b"a: b\r\n")
    file_server.script = [redirect, slow, redirect, slow, redirect, slow]
    assert "headers take longer" in fetch.refused(patience=replace(HASTE, minute=0.1)).message


def test_a_file_without_an_end_is_not_taken_for_whole(file_server: Server, fetch: Fetching) -> None:
    file_server.script = [partial(file_server.send, send_length=False, stop=CUT)]
    assert "may not be whole" in fetch.refused().message
    assert not fetch.part.exists()


@pytest.mark.parametrize("size", ["9" * 5000, "1" * 17])
def test_sizes_with_too_many_digits_are_refused(file_server: Server, fetch: Fetching, size: str) -> None:
    fetch.interrupted()
    span = f"bytes {CUT}-{CUT + 1}/{size}"
    file_server.script = [partial(file_server.answer, status=206, body="xx", content_range=span)]
    fetch.refused()


@pytest.mark.parametrize("page", ["<" * 20_000, "<title" * 4000, "<title>" * 4000, "x" * 100_000, "<a><b>text</b>"])
def test_tags_are_removed_in_one_pass(page: str) -> None:
    assert len(_quote(iter([page.encode()]))) <= QUOTED + 2


def test_a_redirect_loop_is_refused(file_server: Server, fetch: Fetching) -> None:
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
    certificate = Path(__file__).parents[1] / "data" / "tls" / "localhost.pem"
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


def test_headers_that_drip_through_tls_are_refused(trusted: Server, tmp_path: Path) -> None:
    trusted.script = [partial(drip, begin=OK, piece=b"a: b\r\n")]
    error = Fetching(trusted, tmp_path).refused(patience=replace(HASTE, minute=0.1))
    assert "headers take longer" in error.message


def test_a_handshake_that_drips_is_refused(fetch: Fetching) -> None:
    def greet() -> None:
        while not over.is_set():
            with suppress(OSError):
                client, _ = listening.accept()
                with client:
                    client.recv(4096)
                    client.sendall(b"\x16\x03\x03\x3f\xff")  # a record of 16 kB
                    while not over.is_set():
                        client.sendall(b"\x02")
                        time.sleep(0.01)

    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.05)
        thread = threading.Thread(target=greet)
        thread.start()
        port = listening.getsockname()[1]
        error = fetch.refused(url=f"https://127.0.0.1:{port}/teacher.pkl", patience=replace(HASTE, connect=0.2))
        over.set()
        thread.join()
    assert "no connection" in error.message


def test_an_untrusted_certificate_is_refused_without_a_second_attempt(
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
def test_unusable_proxy_and_certificate_settings_are_refused(
    fetch: Fetching, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert "settings of this machine" in fetch.refused().message
