"""Ports of this machine: unused ones, a check that those wanted are unused, and whether a server answers there."""

from __future__ import annotations

import errno
import socket
import urllib.request
from contextlib import ExitStack

from ...errors import MissingCapabilityError, UsageError

LOCAL = "127.0.0.1"


def free_ports() -> tuple[int, int, int]:
    """Return three unused ports of this machine."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for one in sockets:
            one.bind((LOCAL, 0))
        first, second, third = (one.getsockname()[1] for one in sockets)
        return first, second, third


def check_ports(host: str, ports: tuple[int, ...]) -> None:
    """Raise MissingCapabilityError unless every port can be listened on, UsageError for a host that is not here."""
    for port in ports:
        try:
            places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (OSError, UnicodeError) as error:
            raise UsageError(f"host {host!r} is unknown: {error}", "Use --host 127.0.0.1 or 0.0.0.0.") from error
        for family, kind, protocol, _, address in places:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                try:
                    probe.bind(address)
                    probe.listen()
                except OSError as error:
                    raise _problem(host, port, error) from error


def is_answered(url: str, seconds: float) -> bool:
    """Return whether a server on this machine answers a request with success in this time."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy on the way to this machine
    try:
        with opener.open(url, timeout=seconds):
            return True
    except OSError:  # URLError too
        return False


def _problem(host: str, port: int, error: OSError) -> MissingCapabilityError | UsageError:
    if error.errno == errno.EADDRINUSE:
        return MissingCapabilityError(
            f"port {port} of {host} is in use", "End the program that listens there, or give another --port."
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return UsageError(f"{host} is not an address of this machine", "Use --host 127.0.0.1 or 0.0.0.0.")
    return MissingCapabilityError(f"port {port} of {host} cannot be used: {error.strerror}", "Give another --port.")
