"""Stop a long training between two steps when the system or the user requests it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class TrainingInterruptedError(KeyboardInterrupt):
    """Raised when a training stops on request after a complete step; the message names the checkpoint."""


@contextmanager
def stop_requests() -> Iterator[Callable[[], str | None]]:
    """Within the block, remember SIGTERM and SIGINT (Ctrl-C) instead of ending the process at once.

    The yielded function returns the name of the received signal, or None. A second signal raises KeyboardInterrupt, for
    users who do not want to wait. Ignored signals stay ignored. Outside the main thread, where Python delivers no
    signals, nothing changes.
    """
    received: list[str] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(signal.Signals(number).name)

    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        before = {number: handler for number, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}
    for number in before:
        signal.signal(number, remember)
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
