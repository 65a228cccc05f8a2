"""A bound on the connections of the request filter: those that only wait are closed first, so new clients get in.

A connection is *waiting* while its client has nothing to be answered: it is idle, or has sent half of a request. At the
limit a new connection takes the place of the one that has waited longest. So idle connections, however many, keep out
neither a health check nor a request.
"""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass

BACKLOG = 64  # connections that are accepted at once, before any is closed
OWN_DESCRIPTORS = 64 + 3 * BACKLOG  # the files, sockets and pipes of the filter itself, and what it accepts at once
LEAST_DESCRIPTORS = OWN_DESCRIPTORS + 7 * 8
MOST_SHARE = 512
HEADER_SECONDS = 10.0  # from the first byte of a request, or from connecting, to the end of its headers
BLOCK = 1 << 16  # bytes
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # with which every client of HTTP/2 begins
CLOSING_SECONDS = 5.0  # in which the other side of a relayed connection ends, too


@dataclass(frozen=True)
class Limits:
    """How many connections there may be."""

    http: int
    grpc: int
    metrics: int
    in_flight: int
    """Requests for images that Triton works on or queues."""


def limits_of(descriptors: int) -> Limits:
    """Share out file descriptors. A gRPC connection needs three, a request in flight one more to Triton."""
    share = min(max(1, (descriptors - OWN_DESCRIPTORS) // 7), MOST_SHARE)
    return Limits(http=2 * share, grpc=share, metrics=max(1, share // 2), in_flight=share)


def raise_descriptor_limit() -> int:
    """Let this process open as many files as the system allows it. Return how many that is.

    Raises OSError if they are too few to serve.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < LEAST_DESCRIPTORS:
        raise OSError(f"{hard} open files are allowed, {LEAST_DESCRIPTORS} are needed: ulimit -n")
    most = 1 << 20 if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


class Connections:
    """The open connections of one port, at most ``most``. All methods belong to one event loop."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.waiting: dict[object, Callable[[], None]] = {}  # how to close each, the longest waiting first
        self.answering: dict[object, Callable[[], None]] = {}
        self.requests: Counter[object] = Counter()  # in flight on each connection that is being answered

    def __len__(self) -> int:
        return len(self.waiting) + len(self.answering)

    def opened(self, connection: object, close: Callable[[], None]) -> None:
        """Add a connection, in place of the one that has waited longest if there are too many."""
        if len(self) >= self.most:
            if not self.waiting:  # all others are being answered
                close()
                return
            self.waiting.pop(next(iter(self.waiting)))()
        self.waiting[connection] = close

    def closed(self, connection: object) -> None:
        """Forget a connection."""
        self.waiting.pop(connection, None)
        self.answering.pop(connection, None)
        del self.requests[connection]

    @contextmanager
    def busy(self, connection: object) -> Iterator[None]:
        """Keep a connection open while a request of it is answered."""
        if (close := self.waiting.pop(connection, None)) is not None:
            self.answering[connection] = close
        self.requests[connection] += 1
        try:
            yield
        finally:
            self.requests[connection] -= 1
            if self.requests[connection] <= 0:
                del self.requests[connection]
                if (close := self.answering.pop(connection, None)) is not None:
                    self.waiting[connection] = close


class TimedProtocol(asyncio.Protocol):
    """A protocol of a bounded connection, around another: it closes one whose request does not begin in time."""

    def __init__(self, inner: asyncio.Protocol, connections: Connections) -> None:
        self.inner, self.connections = inner, connections
        self.timer: asyncio.TimerHandle | None = None
        self.in_request = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.inner.connection_made(transport)
        self.connections.opened(transport, transport.abort)
        self._start()

    def data_received(self, data: bytes) -> None:
        """Pass on what came. The first bytes after an answer start the time again."""
        if self.timer is None and not self.in_request:
            self._start()
        self.inner.data_received(data)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Stop the time while a request is read and answered; its headers are complete."""
        self._stop()
        self.in_request = True
        try:
            yield
        finally:
            self.in_request = False

    def answering(self) -> AbstractContextManager[None]:
        """Keep the connection open while Triton works."""
        return self.connections.busy(self.transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Forget the connection."""
        self._stop()
        self.connections.closed(self.transport)
        self.inner.connection_lost(error)

    def eof_received(self) -> bool | None:
        """Pass on the end of what the client sends."""
        return self.inner.eof_received()

    def pause_writing(self) -> None:
        """Pass on that the client reads slowly."""
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that the client reads again."""
        self.inner.resume_writing()

    def _start(self) -> None:
        self.timer = asyncio.get_running_loop().call_later(HEADER_SECONDS, self._too_late)

    def _stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _too_late(self) -> None:
        self.timer = None
        self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        self.transport.close()


# ---- a relay, for servers whose connections cannot be bounded from inside ----


class Relay:
    """Accept connections for a server on this machine and copy their bytes, within a bound.

    The server tells by :meth:`busy` which connections have requests, by the port that it sees.
    """

    def __init__(self, connections: Connections) -> None:
        self.connections = connections
        self.port = 0  # of the server, which is known when it has started
        self.clients: dict[int, asyncio.StreamWriter] = {}  # by the port that the server sees
        self.places = asyncio.Semaphore(connections.most)

    def busy(self, peer: str) -> AbstractContextManager[None]:
        """Keep the connection open that the server sees as ``peer``, "ipv4:127.0.0.1:PORT"."""
        return self.connections.busy(self.clients.get(int(peer.rpartition(":")[2])))

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection; a callback of :func:`asyncio.start_server`."""
        self.connections.opened(writer, writer.transport.abort)
        try:
            async with asyncio.timeout(HEADER_SECONDS):
                preface = await reader.readexactly(len(PREFACE))
            # The server closes its side some time after the client's. Until then the place is taken.
            async with self.places:
                if preface == PREFACE and not writer.transport.is_closing():
                    await self._relay(reader, writer)
        except (OSError, asyncio.IncompleteReadError):  # TimeoutError is an OSError
            pass
        finally:
            self.connections.closed(writer)
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.port)
        seen = up_writer.get_extra_info("sockname")[1]
        self.clients[seen] = writer
        up_writer.write(PREFACE)
        tasks = [asyncio.ensure_future(_copy(*pair)) for pair in ((reader, up_writer), (up_reader, writer))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait(tasks, timeout=CLOSING_SECONDS)
        finally:
            for task in tasks:
                task.cancel()
            del self.clients[seen]
            up_writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end of the stream. The other direction may go on."""
    with suppress(OSError, RuntimeError):  # one of the two is closed
        while block := await reader.read(BLOCK):
            writer.write(block)
            await writer.drain()
        writer.write_eof()
