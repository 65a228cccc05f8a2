"""How long a server may take, and how much it may send before the file: every read of a connection is watched."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

LARGEST_HEAD = 256_000  # bytes before the body; httpx itself allows 102,400 of one answer's headers
LONGEST_REASON = 500  # characters


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server, in seconds, and how many attempts in a row may bring next to nothing."""

    connect: float = 15.0
    """Longest time for a connection, and again for TLS."""
    slowest: int = 60_000
    """Least bytes of the file in a minute; a server that sends fewer has stalled."""
    minute: float = 60.0
    """Seconds over which they are counted, and the longest time for an answer's headers."""
    stall: float = 60.0
    """Longest silence of a server once it is connected."""
    attempts: int = 5
    """How many attempts may together bring fewer than ``least`` bytes."""
    least: int = 10_000
    """Bytes after which the attempts are counted anew."""
    pause: float = 1.0
    """Pause before the second attempt; it doubles from one attempt to the next."""
    longest_pause: float = 120.0
    """Give up if the server asks for a longer pause than this."""


def brief(reason: str) -> str:
    """Return a reason, cut if it is long: it may quote what a server sent."""
    return reason if len(reason) <= LONGEST_REASON else f"{reason[:LONGEST_REASON]}..."


class TransientError(Exception):
    """Raised when another attempt may succeed; ``wait`` is the pause that the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        reason = brief(reason)
        super().__init__(reason if wait is None else f"{reason}; it asks to wait {wait:.0f} s")
        self.wait = wait


class Pace:
    """Watches that an answer comes at a bearable rate: a server may send one byte just before every time limit.

    That byte may be of a header, of one of many preliminary answers (100 to 199), or of the sizes between the chunks of
    a body. None of these counts as a byte of the file.
    """

    def __init__(self, patience: Patience) -> None:
        self.patience = patience
        self.begin()

    def begin(self) -> None:
        """Begin with a request."""
        self.answered = False
        self.since, self.count, self.head = time.monotonic(), 0, 0

    def body(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the chunks of the file. Reading one raises TransientError if fewer bytes than the least came."""
        for chunk in chunks:
            self.count += len(chunk)
            yield chunk

    def answer(self) -> None:
        """Note that an answer's headers are complete."""
        self.answered, self.since = True, time.monotonic()

    def watch(self, event: str, info: dict[str, Any]) -> None:
        """Watch a connection from when it is open: a callback for httpx's extension "trace"."""
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            stream = info["return_value"]
            stream.read = self._watched(stream.read)

    def _watched(self, read: Callable[..., bytes]) -> Callable[..., bytes]:
        def watched(max_bytes: int, timeout: float | None = None) -> bytes:
            data = read(max_bytes, timeout)
            self._check_time()
            if not self.answered:
                self.head += len(data)
                if self.head > LARGEST_HEAD:
                    raise TransientError(f"the server sends more than {LARGEST_HEAD:,} bytes of headers")
            return data

        return watched

    def _check_time(self) -> None:
        passed, least = time.monotonic() - self.since, self.patience.slowest
        if passed < self.patience.minute:
            return
        if not self.answered:
            raise TransientError(f"the server's headers take longer than {self.patience.minute:.0f} s")
        if self.count < least * passed / 60:
            raise TransientError(f"the server sends less than {least:,} bytes a minute")
        self.since, self.count = time.monotonic(), 0
