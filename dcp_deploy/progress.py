"""Progress and messages of long-running work. The library is silent; the command line shows bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int], None]
"""Called as ``progress(done, total)``, at any rate, in the caller's thread."""


def shifted(progress: Progress | None, before: int, total: int) -> Progress | None:
    """Return a callback for one part of the work that starts ``before`` steps into a whole of ``total``."""
    return None if progress is None else lambda done, _: progress(before + done, total)


def duration(seconds: float) -> str:
    """Return the time as ``42 s``, ``4 min`` or ``3.1 h``."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"


class Reporter:
    """Receives messages and progress, and ignores them."""

    def message(self, text: str) -> None:
        """One line for the user."""

    @contextmanager
    def task(self, title: str) -> Iterator[Progress]:
        """Show ``title`` while the block runs; the yielded callback moves its bar."""
        del title
        yield lambda done, total: None


class Within(Reporter):
    """The reporter for work inside a task: it passes messages on, and its own tasks move that task's bar."""

    def __init__(self, reporter: Reporter, progress: Progress) -> None:
        self._reporter, self._progress = reporter, progress

    def message(self, text: str) -> None:
        self._reporter.message(text)

    @contextmanager
    def task(self, title: str) -> Iterator[Progress]:
        del title
        yield self._progress
