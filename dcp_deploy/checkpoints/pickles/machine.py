"""A pickle interpreter that cannot import. It calls only the functions that a reader passes to it.

Python's own unpicklers are not safe for untrusted files. Both allocate what a file asks for (one LONG_BINPUT with a
large index costs gigabytes), hash nested keys by recursion and let BUILD set attributes of any object. In this one a
global is only a name, looked up among the stand-ins of one reader. Every other name becomes an inert value: what it is
called with is dropped, and its result is inert too. Only names that no honest file holds end the reading. Nothing is
imported, no attribute is set, dictionary keys are scalars, and every load has a budget of steps and bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NoReturn

from ...errors import UnsafeFileError
from .values import Buildable, Global, Inert, Load, Symbol, cheap_key, is_hostile, printable

_NAME = 256
_CONTAINERS = (list, tuple, dict, set, frozenset)


class Machine:
    """The stack, the memo and the position of one pickle."""

    def __init__(
        self,
        data: memoryview,
        load: Load,
        allowed: Callable[[Global], Callable[..., Any] | None],
        persistent: Callable[[Any], Any] | None,
        buildable: tuple[type[Buildable], ...],
    ) -> None:
        self.data = data
        self.load = load
        self.allowed = allowed
        self.persistent = persistent
        self.buildable = buildable
        self.position = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, Any] = {}

    def fail(self, what: str) -> NoReturn:
        raise self.load.damaged(f"pickle, before byte {self.position}: {what}")

    # ---- reading ----

    def take(self, count: int) -> memoryview:
        """Return the next ``count`` bytes."""
        end = self.position + count
        if end > len(self.data):
            self.fail(f"{count:,} bytes are announced and {len(self.data) - self.position:,} are left")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def line(self) -> str:
        """Return the text up to the next line feed."""
        head = bytes(self.data[self.position : self.position + _NAME])
        text, feed, _ = head.partition(b"\n")
        if not feed:
            self.fail("a name does not end")
        self.position += len(text) + 1
        return self.decode(text)

    def decode(self, utf8: bytes | memoryview) -> str:
        try:
            text = str(utf8, "utf-8", "surrogatepass")  # as Python writes file names that are not UTF-8
        except UnicodeDecodeError:
            self.fail("a text is not UTF-8")
        self.load.spend(memory=sys.getsizeof(text))  # one rare character makes a text four times as large as its UTF-8
        return text

    # ---- the stack ----

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            self.fail("an instruction finds no value to work on")
        return self.stack.pop()

    def top(self) -> Any:
        value = self.pop()
        self.stack.append(value)
        return value

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            self.fail("an instruction finds no mark")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    # ---- common to several instructions ----

    def set_items(self, target: Any, values: list[Any]) -> None:
        if not isinstance(target, dict) or len(values) % 2:
            self.fail("entries are added to something that is not a dictionary")
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[self.key(key, len(target))] = value

    def key(self, key: Any, already: int) -> Any:
        try:
            return cheap_key(key, already)
        except ValueError as error:
            self.fail(str(error))

    def symbol(self, module: Any, name: Any) -> Symbol:
        if type(module) is not str or type(name) is not str:
            self.fail("the name of a global is not a text")
        found = Global(module, name)
        self.load.globals[found] = None
        if is_hostile(found):
            raise UnsafeFileError(
                f"{self.load.source}: its pickle asks for {found}, which no checkpoint needs",
                "Do not open it with other programs either, unless you trust its source. It was not executed.",
            )
        function = self.allowed(found)
        if function is None:
            self.load.unread[found] = None
            return Symbol(found, None)
        return Symbol(found, function)

    def call(self, symbol: Any, arguments: Any) -> Any:
        """Call the stand-in, after spending a step for each item and each kilobyte of text that it may read.

        What has no stand-in gives an inert value.
        """
        if type(symbol) not in (Symbol, Inert) or type(arguments) is not tuple:
            self.fail("something is called that is not a global")
        if type(symbol) is Inert or symbol.function is None:
            self.load.spend(memory=sys.getsizeof({}))
            return Inert(str(symbol.name))
        texts = sum(len(one) // 1024 for one in arguments if type(one) is str)
        items = sum(len(one) for one in arguments if type(one) in _CONTAINERS)
        self.load.spend(steps=len(arguments) + items + texts)
        try:
            return symbol.function(*arguments)
        except (TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise self.load.damaged(f"the values given to {symbol.name} do not fit: {printable(str(error))}") from error
