"""Stop a long training between two steps when the system or the user asks for it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class TrainingInterruptedError(KeyboardInterrupt):
    """A training that was asked to stop and did so after a whole step; the text says where it can go on."""


@contextmanager
def stop_requests() -> Iterator[Callable[[], str | None]]:
    """While the block runs, SIGTERM and SIGINT (Ctrl-C) are remembered instead of ending the process at once.

    The yielded function gives the name of the signal that came, None as long as none has. A second one is an ordinary
    KeyboardInterrupt, for whoever does not want to wait. Signals that the process ignores stay ignored, and outside the
    main thread, where Python delivers none, nothing changes.
    """
    came: list[str] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(signal.Signals(number).name)

    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        before = {number: handler for number, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}
    for number in before:
        signal.signal(number, remember)
    try:
        yield lambda: came[0] if came else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
