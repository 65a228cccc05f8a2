"""Transfers from a real server on this machine, which a test can make stall, break off or lie."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Protocol

import pytest

from dcp_deploy.errors import MissingCapabilityError
from dcp_deploy.teachers.pace import Patience
from dcp_deploy.teachers.transfer import Transfer

HASTE = Patience(connect=1, stall=0.15, attempts=3, pause=0.01, longest_pause=5)
CUT = 120_000  # where answers break off, of 300,000 bytes
Handler = BaseHTTPRequestHandler


class Server(Protocol):
    """The part of tests/conftest.py's FileServer that these tests use."""

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
    """Transfers into a folder of its own, and what they said."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.part = server, folder / "teacher.pkl.part"
        self.said: list[str] = []
        self.bars: list[tuple[int, int]] = []

    def __call__(self, *, url: str | None = None, pinned: bool = False, patience: Patience = HASTE) -> None:
        Transfer(
            url=url or self.server.url,
            part=self.part,
            say=self.said.append,
            progress=lambda done, total: self.bars.append((done, total)),
            patience=patience,
            pinned=pinned,
            remedy="Give --teacher FILE.",
        ).run()

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
