"""Progress and messages of long-running work. The library is silent; the command line shows bars."""

from __future__ import annotations

import time
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


def clock(seconds: float) -> str:
    """Return the time as ``1:55`` or ``2:03:10``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Pace:
    """How far a task is. ``str()`` is ``74/1800, 1:55 elapsed, about 45:12 left``, without what is not known yet.

    The time left is estimated from the first count on, since a resumed task does not begin at zero. Another total, or a
    lower count, means another task within or after this one. Once all is counted, ``finishing`` stands for the rest of
    the work.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self.started = self.begun = self.last = now()
        self.first = self.done = 0
        self.total: int | None = None

    def update(self, done: int, total: int) -> None:
        """Take note of a count."""
        self.last = self.now()
        if total != self.total or done < self.done:
            self.first, self.begun, self.total = done, self.last, total
        self.done = done

    def __str__(self) -> str:
        now = self.now()
        passed = f"{clock(now - self.started)} elapsed"
        if self.total is None:
            return passed
        end, moved = "", self.done - self.first
        if self.done >= self.total:
            end = ", finishing"
        elif moved > 0:
            left = (self.last - self.begun) / moved * (self.total - self.done) - (now - self.last)
            end = f", about {clock(left)} left" if left > 0 else ""  # a step longer than those before it
        return f"{self.done}/{self.total}, {passed}{end}"


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
