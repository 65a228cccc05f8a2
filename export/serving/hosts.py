"""The names by which clients may call the server: protection against web pages that resolve their own name to it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address

ANY = "*"
_HOST = re.compile(r"(\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<name>[^:\[\]/@\s]+))(:[0-9]{0,5})?")


def hosts_of(listening: str, own: str, allowed: Iterable[str]) -> frozenset[str] | None:
    """Return the names that are allowed: localhost, where the server listens, the machine's own name, and ``allowed``.

    None if ``allowed`` has "*": any name.
    """
    names = [*allowed]
    return None if ANY in names else frozenset(_plain(name) for name in ("localhost", listening, own, *names) if name)


def is_allowed(header: str, hosts: frozenset[str]) -> bool:
    """Return whether a Host header is an address, which no foreign name is, or one of the names."""
    match = _HOST.fullmatch(header.strip())
    if match is None:
        return False
    name = match["six"] or match["name"]
    return _is_address(name) or _plain(name) in hosts


def _plain(name: str) -> str:
    return name.lower().removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
