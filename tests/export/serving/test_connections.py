"""The bound on connections: the one that waits longest is closed; a half request ends in time."""

from __future__ import annotations

import asyncio

import pytest

from dcp_deploy.export.serving import filter_connections
from dcp_deploy.export.serving.filter_connections import Connections, TimedProtocol, limits_of


class Closing:
    """Remembers which connections were closed, in order."""

    def __init__(self, most: int) -> None:
        self.connections, self.closed = Connections(most), list[str]()

    def open(self, name: str) -> None:
        self.connections.opened(name, lambda: self.closed.append(name))


def test_the_connection_that_has_waited_longest_is_closed_for_a_new_one() -> None:
    closing = Closing(2)
    for name in "abcd":
        closing.open(name)
    assert closing.closed == ["a", "b"] and len(closing.connections) == 2


def test_a_connection_that_is_answered_stays_and_waits_again_after_it() -> None:
    closing = Closing(2)
    closing.open("a")
    closing.open("b")
    with closing.connections.busy("a"), closing.connections.busy("a"):
        closing.open("c")
        closing.open("d")
    closing.open("e")
    assert closing.closed == ["b", "c", "d"]  # a began to wait after d came


def test_with_two_requests_on_one_connection_it_waits_after_the_second() -> None:
    closing = Closing(1)
    closing.open("a")
    first, second = closing.connections.busy("a"), closing.connections.busy("a")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    closing.open("b")
    assert closing.closed == ["b"]  # nobody waits, so the new one goes
    second.__exit__(None, None, None)
    closing.open("c")
    assert closing.closed == ["b", "a"]


def test_a_closed_connection_is_forgotten_while_its_request_ends() -> None:
    closing = Closing(1)
    closing.open("a")
    with closing.connections.busy("a"):
        closing.connections.closed("a")
    assert len(closing.connections) == 0


def test_all_connections_fit_into_the_descriptors() -> None:
    for descriptors in (filter_connections.LEAST_DESCRIPTORS, 400, 1024, 4096, 1 << 20):
        limits = limits_of(descriptors)
        assert min(limits.http, limits.grpc, limits.metrics, limits.in_flight) >= 1
        used = limits.http + 3 * limits.grpc + limits.metrics + limits.in_flight
        assert used + filter_connections.OWN_DESCRIPTORS <= descriptors + 1
        assert limits.in_flight < limits.http  # so a health check is always answered


@pytest.mark.parametrize("sent", [b"", b"GET /v2/health/ready HTTP/1.1\r\nHost: "])
def test_half_a_request_is_answered_with_408_and_closed(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(filter_connections, "HEADER_SECONDS", 0.05)

    async def answered() -> bytes:
        connections = Connections(5)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: TimedProtocol(asyncio.Protocol(), connections), "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(sent)
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
        return answer

    assert asyncio.run(answered()).startswith(b"HTTP/1.1 408 ")
