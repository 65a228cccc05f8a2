"""Reads a pickle: executes its instructions on the machine up to STOP.

The opcodes are those of protocols 2 to 5 that checkpoints use; Python's ``pickletools`` documents them. All others
(protocols 0 and 1, INST, OBJ, the extension registry, out-of-band buffers) are refused by name.
"""

from __future__ import annotations

import pickletools
import struct
import sys
from collections.abc import Callable, Iterable
from typing import Any

from .machine import Machine
from .values import Buildable, Global, Inert, Load, LongText, Symbol

TEXT = 1 << 20  # bytes; a longer text stays undecoded
_LONG = 255  # most bytes of an integer

_NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
_CODES = {name: code for code, name in _NAMES.items()}

_Handler = Callable[["Machine"], None]
_HANDLERS: list[_Handler | None] = [None] * 256


def _opcode(*names: str) -> Callable[[_Handler], _Handler]:
    """Register a function as the handler of these opcodes."""

    def register(handler: _Handler) -> _Handler:
        for name in names:
            _HANDLERS[_CODES[name]] = handler
        return handler

    return register


def _pushing(make: Callable[[Machine], Any]) -> _Handler:
    def push(machine: Machine) -> None:
        machine.stack.append(make(machine))

    return push


# ---- constants and new containers ----

_opcode("NONE")(_pushing(lambda machine: None))
_opcode("NEWTRUE")(_pushing(lambda machine: True))
_opcode("NEWFALSE")(_pushing(lambda machine: False))
_opcode("EMPTY_TUPLE")(_pushing(lambda machine: ()))


def _container(kind: type[list[Any]] | type[dict[Any, Any]] | type[set[Any]]) -> _Handler:
    size = sys.getsizeof(kind())

    def make(machine: Machine) -> Any:
        machine.load.spend(memory=size)  # one byte of the file makes an object of up to 216
        return kind()

    return _pushing(make)


_opcode("EMPTY_LIST")(_container(list))
_opcode("EMPTY_DICT")(_container(dict))
_opcode("EMPTY_SET")(_container(set))


# ---- numbers, texts and bytes ----


def _number(layout: str) -> _Handler:
    unpack, size = struct.Struct(layout).unpack, struct.calcsize(layout)
    return _pushing(lambda machine: unpack(machine.take(size))[0])


def _text(width: int) -> _Handler:
    def read(machine: Machine) -> str | LongText:
        utf8 = machine.take(machine.number(width))
        return machine.decode(utf8) if len(utf8) <= TEXT else LongText(utf8)

    return _pushing(read)


def _bytes(width: int) -> _Handler:
    return _pushing(lambda machine: machine.take(machine.number(width)))


def _long(width: int) -> _Handler:
    def read(machine: Machine) -> int | Inert:
        digits = machine.take(machine.number(width))
        return int.from_bytes(digits, "little", signed=True) if len(digits) <= _LONG else Inert("a long integer")

    return _pushing(read)


for _name, _layout in {"BININT": "<i", "BININT1": "<B", "BININT2": "<H", "BINFLOAT": ">d"}.items():
    _opcode(_name)(_number(_layout))
for _name, _width in {"SHORT_BINUNICODE": 1, "BINUNICODE": 4, "BINUNICODE8": 8}.items():
    _opcode(_name)(_text(_width))
for _name, _width in {"SHORT_BINBYTES": 1, "BINBYTES": 4, "BINBYTES8": 8, "BYTEARRAY8": 8}.items():
    _opcode(_name)(_bytes(_width))
for _name, _width in {"LONG1": 1, "LONG4": 4}.items():
    _opcode(_name)(_long(_width))


# ---- the memo ----


def _remember(width: int) -> _Handler:
    def put(machine: Machine) -> None:
        machine.memo[machine.number(width)] = machine.top()

    return put


def _recall(width: int) -> _Handler:
    def get(machine: Machine) -> Any:
        index = machine.number(width)
        if index not in machine.memo:
            machine.fail(f"memo entry {index} does not exist")
        return machine.memo[index]

    return _pushing(get)


for _name, _width in {"BINPUT": 1, "LONG_BINPUT": 4}.items():
    _opcode(_name)(_remember(_width))
for _name, _width in {"BINGET": 1, "LONG_BINGET": 4}.items():
    _opcode(_name)(_recall(_width))


@_opcode("MEMOIZE")
def _memoize(machine: Machine) -> None:
    machine.memo[len(machine.memo)] = machine.top()


# ---- frame, marks and end ----


@_opcode("PROTO")
def _proto(machine: Machine) -> None:
    version = machine.number(1)
    if not 2 <= version <= 5:
        machine.fail(f"pickle protocol {version}, known are 2 to 5")


@_opcode("FRAME")
def _frame(machine: Machine) -> None:
    length = machine.number(8)
    if length > len(machine.data) - machine.position:
        machine.fail(f"a frame of {length:,} bytes is announced, {len(machine.data) - machine.position:,} are left")


_opcode("STOP")(lambda machine: None)  # the loop of run_pickle ends


@_opcode("MARK")
def _mark(machine: Machine) -> None:
    machine.marks.append(len(machine.stack))


@_opcode("POP")
def _pop(machine: Machine) -> None:
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        machine.pop()


@_opcode("POP_MARK")
def _pop_mark(machine: Machine) -> None:
    machine.pop_to_mark()


# ---- containers ----


def _tuple_of(count: int) -> _Handler:
    return _pushing(lambda machine: tuple([machine.pop() for _ in range(count)][::-1]))


for _count in (1, 2, 3):
    _opcode(f"TUPLE{_count}")(_tuple_of(_count))
_opcode("TUPLE")(_pushing(lambda machine: tuple(machine.pop_to_mark())))
_opcode("LIST")(_pushing(lambda machine: machine.pop_to_mark()))


def _extend(machine: Machine, values: Iterable[Any]) -> None:
    target = machine.top()
    if _is_inert(target):
        return
    if type(target) is not list:
        machine.fail("values are appended to something that is not a list")
    target.extend(values)


@_opcode("APPEND")
def _append(machine: Machine) -> None:
    value = machine.pop()
    _extend(machine, [value])


@_opcode("APPENDS")
def _appends(machine: Machine) -> None:
    _extend(machine, machine.pop_to_mark())


@_opcode("DICT")
def _dict(machine: Machine) -> None:
    values, target = machine.pop_to_mark(), dict[Any, Any]()
    machine.set_items(target, values)
    machine.stack.append(target)


@_opcode("SETITEM")
def _set_item(machine: Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items(machine.top(), [key, value])


@_opcode("SETITEMS")
def _set_items(machine: Machine) -> None:
    values = machine.pop_to_mark()
    machine.set_items(machine.top(), values)


@_opcode("ADDITEMS")
def _add_items(machine: Machine) -> None:
    values, target = machine.pop_to_mark(), machine.top()
    if _is_inert(target):
        return
    if type(target) is not set:
        machine.fail("members are added to something that is not a set")
    for value in values:
        target.add(machine.key(value, len(target)))


@_opcode("FROZENSET")
def _frozenset(machine: Machine) -> None:
    values = machine.pop_to_mark()
    machine.stack.append(frozenset([machine.key(value, already) for already, value in enumerate(values)]))


# ---- globals and calls ----


@_opcode("GLOBAL")
def _global(machine: Machine) -> None:
    module, name = machine.line(), machine.line()
    machine.stack.append(machine.symbol(module, name))


@_opcode("STACK_GLOBAL")
def _stack_global(machine: Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.stack.append(machine.symbol(module, name))


@_opcode("REDUCE", "NEWOBJ")
def _reduce(machine: Machine) -> None:
    arguments, symbol = machine.pop(), machine.pop()
    machine.stack.append(machine.call(symbol, arguments))


@_opcode("NEWOBJ_EX")
def _new_object(machine: Machine) -> None:
    named, arguments, symbol = machine.pop(), machine.pop(), machine.pop()
    if type(named) is not dict or (named and not _is_inert(symbol)):
        machine.fail("a global is called with arguments by name")
    machine.stack.append(machine.call(symbol, arguments))


def _is_inert(value: Any) -> bool:
    """Return whether this is an inert value, or a global that makes one."""
    return type(value) is Inert or (type(value) is Symbol and value.function is None)


@_opcode("BUILD")
def _build(machine: Machine) -> None:
    state, target = machine.pop(), machine.top()
    if type(target) is Inert:
        target.build(state)
        return
    if _is_inert(target):
        return
    if type(target) not in machine.buildable:
        machine.fail("a state is given to something that cannot take one")
    machine.call(Symbol(Global(type(target).__name__, "build"), target.build), (state,))


@_opcode("BINPERSID")
def _persistent_id(machine: Machine) -> None:
    key = machine.pop()
    if machine.persistent is None:
        machine.fail("it refers to a value outside itself")
    machine.stack.append(machine.persistent(key))


# ---- the loop ----


def run_pickle(
    data: memoryview,
    *,
    load: Load,
    allowed: Callable[[Global], Callable[..., Any] | None],
    persistent: Callable[[Any], Any] | None = None,
    buildable: tuple[type[Buildable], ...] = (),
) -> tuple[Any, int]:
    """Read one pickle from the start of ``data``; return its value and the offset after STOP, where another may follow.

    ``allowed`` returns the stand-in for a global, None for an inert value; the ``get`` of a dictionary fits.
    ``persistent`` resolves persistent ids. Only inert values and instances of the ``buildable`` classes accept BUILD.
    Byte strings become slices of ``data``, texts above ``TEXT`` bytes become LongText, globals become Symbol.

    Raises UnsafeFileError for a hostile global and CorruptFileError for every other error.
    Shared and cyclic containers are legal in a pickle: a caller that traverses the value must bound its steps.
    """
    machine = Machine(data.cast("B"), load, allowed, persistent, buildable)
    while True:
        if machine.position >= len(machine.data):
            machine.fail("it ends without a STOP")
        code = machine.data[machine.position]
        machine.position += 1
        machine.load.spend(steps=1)
        handler = _HANDLERS[code]
        if handler is None:
            known = _NAMES.get(code)
            machine.fail(f"no checkpoint uses the instruction {known}" if known else f"no instruction is {code:#x}")
        handler(machine)
        if code == _CODES["STOP"]:
            value = machine.pop()
            if machine.stack or machine.marks:
                machine.fail("values are left over at its end")
            return value, machine.position
