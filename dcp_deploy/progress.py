"""How long-running work says where it is. The library is silent; the command line draws bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int], None]
"""Called as ``progress(done, total)``, at any rate, in the caller's thread."""


def shifted(progress: Progress | None, before: int, total: int) -> Progress | None:
    """The progress of a part, ``before`` steps into a whole of ``total``."""
    return None if progress is None else lambda done, _: progress(before + done, total)


def duration(seconds: float) -> str:
    """``42 s``, ``4 min``, ``3.1 h``."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"


class Reporter:
    """Receives messages and progress, and drops them."""

    def message(self, text: str) -> None:
        """One line for the user."""

    @contextmanager
    def task(self, title: str) -> Iterator[Progress]:
        """Show ``title`` while the block runs; the yielded callback moves its bar."""
        del title
        yield lambda done, total: None


class Within(Reporter):
    """What work inside of a task is given: its messages go on, and its own tasks move the one bar that there is."""

    def __init__(self, reporter: Reporter, progress: Progress | None) -> None:
        self._reporter, self._progress = reporter, progress

    def message(self, text: str) -> None:
        self._reporter.message(text)

    @contextmanager
    def task(self, title: str) -> Iterator[Progress]:
        del title
        yield self._progress or (lambda done, total: None)
