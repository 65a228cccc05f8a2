"""Reads a pickle: executes its instructions on the machine up to STOP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .machine import Machine
from .opcodes import HANDLERS, NAMES, STOP
from .values import Buildable, Global, Load


class PickleResult(NamedTuple):
    """The value, and the offset after STOP, where another pickle may follow."""

    value: Any
    end: int


def run_pickle(
    data: memoryview,
    *,
    load: Load,
    allowed: Callable[[Global], Callable[..., Any] | None],
    persistent: Callable[[Any], Any] | None = None,
    buildable: tuple[type[Buildable], ...] = (),
) -> PickleResult:
    """Read one pickle from the start of ``data``.

    ``allowed`` returns the stand-in for a global, None to refuse it; the ``get`` of a dictionary fits. ``persistent``
    resolves persistent ids. Only instances of the ``buildable`` classes accept BUILD. Byte strings become slices of
    ``data``, texts above ``TEXT`` bytes become LongText, globals become Symbol.

    Raises UnsafeFileError for a global without a stand-in and CorruptFileError for every other error.
    Shared and cyclic containers are legal in a pickle: a caller that traverses the value must bound its steps.
    """
    machine = Machine(data.cast("B"), load, allowed, persistent, buildable)
    return PickleResult(_run(machine), machine.position)


def _run(machine: Machine) -> Any:
    """Execute instructions up to STOP; return the value that is then on the stack."""
    while True:
        if machine.position >= len(machine.data):
            machine.fail("it ends without a STOP")
        code = machine.data[machine.position]
        machine.position += 1
        machine.load.spend(steps=1)
        handler = HANDLERS[code]
        if handler is None:
            known = NAMES.get(code)
            machine.fail(f"no checkpoint uses the instruction {known}" if known else f"no instruction is {code:#x}")
        handler(machine)
        if code == STOP:
            value = machine.pop()
            if machine.stack or machine.marks:
                machine.fail("values are left over at its end")
            return value
