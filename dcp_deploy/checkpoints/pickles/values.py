"""The values that a pickle consists of, and the budget of a load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from ...errors import CorruptFileError

STEPS = 500_000  # the largest training snapshots need about 60,000


class Global(NamedTuple):
    """A name in a module, as the pickle gives it. It need not exist."""

    module: str
    name: str

    def __str__(self) -> str:
        return printable(f"{self.module}.{self.name}")


class Symbol:
    """A global on the stack: its name, and the stand-in that runs when the pickle calls it."""

    __slots__ = ("function", "name")

    def __init__(self, name: Global, function: Callable[..., Any]) -> None:
        self.name = name
        self.function = function


class LongText:
    """A long text, still encoded as UTF-8."""

    __slots__ = ("utf8",)

    def __init__(self, utf8: memoryview) -> None:
        self.utf8 = utf8


class Buildable(Protocol):
    """A stand-in that accepts the state of a BUILD instruction."""

    def build(self, state: Any) -> None: ...


@dataclass
class Load:
    """One reading of one file: its name for messages, the budget that is left, and the globals named so far.

    ``steps`` bounds instructions and other work, ``memory`` the bytes that readers allocate. Nested streams share the
    budget of their file.
    """

    source: str
    memory: int
    steps: int = STEPS
    globals: dict[Global, None] = field(default_factory=dict)

    @classmethod
    def of(cls, source: str, file_size: int) -> Load:
        """Return the budget of a file: enough to decode its bytes once and to copy them once."""
        return cls(source, memory=2 * file_size + (16 << 20))

    def spend(self, *, steps: int = 0, memory: int = 0) -> None:
        """Take from the budget. Raises CorruptFileError when it is used up."""
        self.steps -= steps
        self.memory -= memory
        if self.steps < 0:
            raise self.damaged(f"it takes more than {STEPS:,} steps to read, more than any checkpoint needs")
        if self.memory < 0:
            raise self.damaged("its tensors would take far more memory than the file has bytes")

    def damaged(self, what: str) -> CorruptFileError:
        """Return the error for a file that contradicts itself; ``what`` may quote from the file."""
        return CorruptFileError(f"{self.source}: {what}", "the file is damaged or truncated, or not a checkpoint")


def never_called(*arguments: Any) -> None:
    """Stand in for a class that pickles name and never call."""
    raise ValueError("a class is called like a function")


def printable(text: str, length: int = 120) -> str:
    """Return a text from a file, cut and without control characters, for a message."""
    shown = text if len(text) <= length else f"{text[:length]}..."
    return shown if shown.isprintable() else ascii(shown)[1:-1]
