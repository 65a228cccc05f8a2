"""The standard streams: text without control characters, and what happens when a stream is closed, full or a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import IO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from ..errors import MissingCapabilityError
from ..files import escaped

_closed: set[str] = set()  # names of the streams that were closed when the program started


def visible(text: str) -> str:
    r"""Write control characters as escapes: names of files and words of servers could change what a terminal shows.

    A later line of the text is indented, so that it cannot look like a message of its own.
    """
    return escaped(text).replace("\n", "\n    ")


class SafeConsole(Console):
    """A rich console that escapes control characters in everything that it shows."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does, and escape the text of every part that is not rich's own control code."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(escaped(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Leave the error to the caller. Rich would end the program."""
        raise  # rich calls this while it handles the error


def say(console: Console, text: str) -> None:
    """Print a message of one line. Without a reader or space it is dropped: the work matters more."""
    with suppress(OSError):
        console.print(visible(text), markup=False, soft_wrap=True)


def answer(write: Callable[[], None]) -> None:
    """Write an answer to standard output, to the end.

    Raises MissingCapabilityError if it cannot be written, BrokenPipeError if its reader ended.
    """
    if "stdout" in _closed:
        raise MissingCapabilityError("standard output is closed", "Send it to a file, or to /dev/null.")
    try:
        write()
        sys.stdout.flush()
    except BrokenPipeError:
        drop_stdout()
        raise
    except OSError as error:
        drop_stdout()
        raise MissingCapabilityError(
            f"standard output cannot be written: {error.strerror}", "Send it to a disk with space left."
        ) from error


def is_closed() -> bool:
    """Return whether standard output was closed when the program started."""
    return "stdout" in _closed


def drop_stdout() -> None:
    """Send what is still to be written to standard output nowhere, also what Python writes when it ends."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def open_streams() -> None:
    """Open closed standard streams on the null device, lest the next opened file get their numbers."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream: IO[str] | None = getattr(sys, name)
        if stream is None:
            _closed.add(name)
            handle = os.open(os.devnull, os.O_RDWR)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
        elif number:
            stream.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]  # it is a TextIOWrapper


def ended(program: Callable[[], None]) -> int:
    """Run the program and return its exit code, 1 without a reader of standard output, 4 if it cannot be written."""
    code = 0
    try:
        try:
            program()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        sys.stdout.flush()
    except OSError as error:  # of a verb's --help; verbs map their own errors
        drop_stdout()
        if isinstance(error, BrokenPipeError):
            return code or 1
        say(SafeConsole(stderr=True, highlight=False), f"error: standard output cannot be written: {error.strerror}")
        return code or MissingCapabilityError.exit_code
    return code
