"""Servers of teachers that exist in memory: an input is what each connection receives, and then it is closed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpcore
import httpx

from dcp_deploy.errors import MissingCapabilityError
from dcp_deploy.teachers.pace import Patience
from dcp_deploy.teachers.transfer import REDIRECTS, Transfer, note_of

URL = "http://weights.invalid/teacher.pkl"
NEXT = b"\n=== next connection ===\n"
PATIENCE = Patience(attempts=3, pause=0.0, longest_pause=0.0, least=64)
LONGEST_MESSAGE = 1000  # characters

BODY = b"\x80\x02" + bytes(range(62))
OK = b"HTTP/1.1 200 OK\r\n"
SIZED = OK + b'ETag: "one"\r\nContent-Length: 64\r\n\r\n'
REST = b'HTTP/1.1 206 Partial Content\r\nETag: "one"\r\nContent-Range: bytes 20-63/64\r\nContent-Length: 44\r\n\r\n'
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n20\r\n" + BODY[:32] + b"\r\n20;name=value\r\n" + BODY[32:]
MOVED = b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 3\r\n\r\nold"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"
GONE = b"HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */64\r\n\r\n"

VALID = (
    SIZED + BODY,
    CHUNKED + b"\r\n0\r\nChecked: yes\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + SIZED + BODY,
    MOVED + NEXT + SIZED + BODY,
    BUSY + NEXT + SIZED + BODY,
    NEXT.join((SIZED + BODY[:20], REST + BODY[20:])),
    NEXT.join((SIZED + BODY[:20], GONE, SIZED + BODY)),
)
PIECES = (
    NEXT, b"\r\n", b"\r\n\r\n", b"\n", b"\0", b"\xff", b": ", b";", b"0\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 50,
    b"HTTP/1.0 200\r\n\r\n", b"HTTP/1.1 404 " + b"<title" * 500, b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<",
    b"a: b\n" * 3000, b"a: " + b"b" * 200_000, b"Content-Length: 9" + b"9" * 5000 + b"\r\n", b"Content-Length: -1\r\n",
    b"Content-Length: 64\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n",
    b"Content-Encoding: gzip\r\n", b"Content-Type: application/json\r\n", b"Content-Range: bytes 0-63/*\r\n",
    b"Content-Range: bytes 20-63/99999999999999999999\r\n", b"Retry-After: " + b"9" * 400 + b"\r\n",
    b"Retry-After: Fri, 99 Foo 99999 99:99:99 +9999\r\n", b"Location: http://[::1\r\n", b"Location: //\xff\r\n",
    b"Location: https://weights.invalid:99999/\r\n", b"Location: ftp://weights.invalid/\r\n", b"Location: \r\n",
    b"Location: http://" + b"a" * 70_000 + b"\r\n", b"Location: http://xn--a.invalid/\r\n", b"Location: ?" + b"%" * 99,
    b"HTTP/1.1 301 \x1b[31m\r\n", b"HTTP/1.1 999 ?\r\n", b"HTTP/1.1 206 OK\r\n", b"ETag: W/\"\xe9\"\r\n",
    b"ffffffffffffffffff\r\n", b"-1\r\n", b"HTTP/1.1 101 Switching Protocols\r\n\r\n", b"HTTP/1.1 304 No\r\n\r\n",
)  # fmt: skip


class _Connection(httpcore.NetworkStream):
    """What one connection receives, in small pieces, and its end."""

    def __init__(self, content: bytes) -> None:
        self.content = memoryview(content)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        size = min(max_bytes, 4096)
        piece, self.content = bytes(self.content[:size]), self.content[size:]
        return piece

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        pass

    def close(self) -> None:
        self.content = memoryview(b"")

    def start_tls(self, *arguments: Any, **named: Any) -> httpcore.NetworkStream:
        return self

    def get_extra_info(self, info: str) -> Any:
        return None


class _Network(httpcore.NetworkBackend):
    """Gives the n-th connection the n-th answer, all further ones the last, and counts them."""

    def __init__(self, answers: list[bytes]) -> None:
        self.answers, self.opened = answers, 0

    def connect_tcp(self, *arguments: Any, **named: Any) -> httpcore.NetworkStream:
        self.opened += 1
        return _Connection(self.answers[min(self.opened, len(self.answers)) - 1])

    def connect_unix_socket(self, *arguments: Any, **named: Any) -> httpcore.NetworkStream:
        raise NotImplementedError

    def sleep(self, seconds: float) -> None:
        pass


def downloader(folder: Path) -> Callable[[bytes], None]:
    """Return a function that fetches a file from a server in memory, as dcp-deploy fetches a teacher.

    It raises MissingCapabilityError if the server is refused, and AssertionError if that took too many connections.
    """
    part = folder / "teacher.pkl.part"

    class FromMemory(Transfer):
        def _client(self) -> Any:
            return nullcontext(client)  # one for all inputs: making one reads the machine's certificates

    def transfer() -> FromMemory:
        return FromMemory(
            url=URL, part=part, say=lambda words: None, progress=lambda done, total: None, patience=PATIENCE,
            pinned=False, remedy="Give --teacher FILE.",
        )  # fmt: skip

    client = Transfer._client(transfer())
    client._mounts = {}
    client._transport = httpx.HTTPTransport(verify=False)

    def fetch(content: bytes) -> None:
        answers = content.split(NEXT)
        network = _Network(answers)
        client._transport._pool = httpcore.ConnectionPool(network_backend=network)  # type: ignore[attr-defined]
        client.cookies.clear()
        _remove((part, note_of(part)))
        try:
            transfer().run()
        except MissingCapabilityError as error:
            assert len(f"{error.message}{error.remedy}") < LONGEST_MESSAGE
            raise
        finally:
            progress = sum(map(len, answers)) // PATIENCE.least
            assert network.opened <= (PATIENCE.attempts + progress) * (REDIRECTS + 1)
        assert 0 < part.stat().st_size <= len(content)

    return fetch


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
