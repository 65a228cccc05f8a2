"""What the parts of a pickle are to a reader, and what reading may cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from ...errors import CorruptFileError

STEPS = 500_000  # the largest training snapshots take about 60,000


class Global(NamedTuple):
    """A name in a module, as a pickle gives it; it may not exist."""

    module: str
    name: str

    def __str__(self) -> str:
        return printable(f"{self.module}.{self.name}")


class Symbol:
    """A global on the stack: its name, and the stand-in that answers when the pickle calls it."""

    __slots__ = ("function", "name")

    def __init__(self, name: Global, function: Callable[..., Any]) -> None:
        self.name = name
        self.function = function


class LongText:
    """A long text, left as the UTF-8 that it is stored in."""

    __slots__ = ("utf8",)

    def __init__(self, utf8: memoryview) -> None:
        self.utf8 = utf8


class Buildable(Protocol):
    """A stand-in that takes the state which BUILD brings."""

    def build(self, state: Any) -> None: ...


@dataclass
class Load:
    """One reading of one file: its name for messages, what it may still cost, and the globals it has named.

    ``steps`` counts instructions and whatever else takes time, ``memory`` the bytes that readers materialise. Nested
    streams share the budget of their file.
    """

    source: str
    memory: int
    steps: int = STEPS
    globals: dict[Global, None] = field(default_factory=dict)

    @classmethod
    def of(cls, source: str, file_size: int) -> Load:
        """The budget of a file: its bytes may be decoded once and copied once."""
        return cls(source, memory=2 * file_size + (16 << 20))

    def spend(self, *, steps: int = 0, memory: int = 0) -> None:
        """Take from the budget; CorruptFileError when it is used up."""
        self.steps -= steps
        self.memory -= memory
        if self.steps < 0:
            raise self.damaged(f"it takes more than {STEPS:,} steps to read, more than any checkpoint needs")
        if self.memory < 0:
            raise self.damaged("its tensors would take far more memory than the file has bytes")

    def damaged(self, what: str) -> CorruptFileError:
        """The error to raise for a file that contradicts itself; ``what`` may quote from the file."""
        return CorruptFileError(f"{self.source}: {what}", "the file is damaged or truncated, or no checkpoint")


def printable(text: str, length: int = 120) -> str:
    """``text`` from a file, fit for a message: cut, without control characters."""
    shown = text if len(text) <= length else f"{text[:length]}..."
    return shown if shown.isprintable() else ascii(shown)[1:-1]
