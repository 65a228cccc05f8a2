"""The values that a pickle consists of, and the budget of a load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeGuard

from ...errors import CorruptFileError, UnsafeFileError

STEPS = 2_000_000  # the largest training snapshots need about 60,000; lists of losses take one for each number


class Global(NamedTuple):
    """A name in a module, as the pickle gives it. It need not exist."""

    module: str
    name: str

    def __str__(self) -> str:
        return printable(f"{self.module}.{self.name}")


class Symbol:
    """A global on the stack: its name, and the stand-in that runs when the pickle calls it, None without one."""

    __slots__ = ("function", "name")

    def __init__(self, name: Global, function: Callable[..., Any] | None) -> None:
        self.name = name
        self.function = function


class Inert(dict[Any, Any]):
    """A value whose class or function no reader knows: nothing of it was imported or called.

    It keeps the name, and as a dictionary the entries that the pickle adds, so that the options of a training run stay
    readable whatever class held them. ``state`` is what BUILD gave it.
    """

    __slots__ = ("name", "state")

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.state: Any = None

    def build(self, state: Any) -> None:
        """Keep the state as it is."""
        self.state = state


class OddKey:
    """A key that is neither a text nor one of a few whole numbers. It equals only itself, so hashing it is cheap."""

    __slots__ = ()


_NUMBER_KEYS = 4096  # a file can make hashes of numbers collide, and then a dictionary takes quadratic time


def cheap_key(key: Any, already: int) -> Any:
    """Return a key that is cheap to hash: a text, or one of a few whole numbers, as it is; else an OddKey.

    A nested tuple would be hashed by recursion. No reader looks for keys of other types. Raises ValueError for lists,
    sets and dictionaries, which have no hash.
    """
    if type(key) is str or (type(key) in (int, bool, type(None)) and already < _NUMBER_KEYS):
        return key
    if isinstance(key, list | set | dict) and type(key) is not Inert:
        raise ValueError(f"a key is of type {type(key).__name__}, which has no hash")
    return OddKey()


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
    budget of their file. ``unread`` are the globals without a stand-in.
    """

    source: str
    memory: int
    steps: int = STEPS
    globals: dict[Global, None] = field(default_factory=dict)
    unread: dict[Global, None] = field(default_factory=dict)

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

    def inert(self, value: Inert, path: str) -> UnsafeFileError:
        """Return the error for a wanted network that has an inert value at ``path``."""
        return UnsafeFileError(
            f"{self.source}: {printable(path) or 'the network'} is made by {printable(value.name)}, which is not read",
            "Save the network's state dict, or give a file in a format that is read. It was not executed.",
        )

    def damaged(self, what: str) -> CorruptFileError:
        """Return the error for a file that contradicts itself; ``what`` may quote from the file."""
        return CorruptFileError(
            f"{self.source}: {what}", "Copy or fetch it again: it is damaged or truncated, or not a checkpoint."
        )


def is_hostile(name: Global) -> bool:
    """Return whether a name leads to the system or to the means of running code, directly or by a dotted path.

    A checkpoint never needs one. So a file with one is refused, wherever it stands.
    """
    module, *_ = (part.strip("_") for part in name.module.split("."))
    path = [part.strip("_") for part in name.name.split(".")]
    if module in _HOSTILE_NAMES:
        return not _HOSTILE_NAMES[module].isdisjoint(path)
    return module in _HOSTILE_MODULES or (len(path) > 1 and not _HOSTILE_MODULES.isdisjoint(path))


_HOSTILE_MODULES = frozenset({
    "asyncio", "bdb", "cPickle", "code", "codeop", "commands", "ctypes", "fcntl", "imp", "importlib", "marshal", "mmap",
    "multiprocessing", "nt", "os", "pdb", "pickle", "pip", "pkgutil", "posix", "posixsubprocess", "pty", "pydoc",
    "requests", "runpy", "shutil", "smtplib", "socket", "socketserver", "ssl", "subprocess", "sys", "timeit", "urllib",
    "urllib2", "webbrowser", "zipimport",
})  # fmt: skip
_BUILTINS = frozenset({
    "apply", "breakpoint", "compile", "delattr", "eval", "exec", "execfile", "file", "getattr", "globals", "import",
    "input", "locals", "open", "raw_input", "reload", "setattr", "vars",
})  # fmt: skip
# Modules of which only these names are hostile.
_HOSTILE_NAMES = {
    "builtin": _BUILTINS,
    "builtins": _BUILTINS,
    "io": frozenset({"open", "open_code", "FileIO", "OpenWrapper"}),
    "operator": frozenset({"attrgetter", "methodcaller"}),
}


def is_number(value: Any) -> TypeGuard[int | float]:
    """Return whether a value is a finite number that fits a float; a pickle may hold integers of any size."""
    return type(value) in (int, float) and abs(value) < 1e300


def never_called(*arguments: Any) -> None:
    """Stand in for a class that pickles name and never call."""
    raise ValueError("a class is called like a function")


def printable(text: str, length: int = 120) -> str:
    """Return a text from a file, cut and without control characters, for a message."""
    shown = text if len(text) <= length else f"{text[:length]}..."
    return shown if shown.isprintable() else ascii(shown)[1:-1]
