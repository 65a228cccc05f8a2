"""Stop a process in a write that another process has chosen, so that it can be killed there for certain.

The program to be killed calls :func:`watch_writes`. Results are written to a scratch file, which is then renamed. Both
are seen by an audit hook of Python, so the program's own writers need no change.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ...files import result_of

LOG, STOP = "DCP_DEPLOY_WRITES", "DCP_DEPLOY_STOP"  # variables of the environment: a file, and a Stop as JSON
Phase = Literal["empty", "half", "whole"]
PHASES: tuple[Phase, ...] = ("empty", "half", "whole")


@dataclass(frozen=True)
class Write:
    """A file that a stage wrote."""

    stage: str
    name: str
    bytes: int


@dataclass(frozen=True)
class Stop:
    """Where to stop: in the write of a file in a stage, while its scratch file is empty, half written or whole."""

    stage: str
    name: str
    phase: Phase
    half: int
    """Bytes of half the file."""


def stop_at(stop: Stop) -> dict[str, str]:
    """Return the environment of a program that shall stop."""
    return {STOP: json.dumps(asdict(stop))}


def read_writes(log: Path) -> list[Write]:
    """Return all writes of a program that had ``log`` in its environment, each file of a stage once."""
    found = [Write(**json.loads(line)) for line in log.read_text(encoding="utf-8").splitlines()]
    return list({(write.stage, write.name): write for write in found}.values())


def watch_writes(stage: Callable[[], str], environment: Mapping[str, str] = os.environ) -> None:
    """Note this process's writes in the file that ``environment`` names, or stop where it says.

    ``stage`` returns the stage at work. A file that no Python code opens is not stopped before it is whole.
    """
    log, wanted = environment.get(LOG), environment.get(STOP)
    stop = None if wanted is None else Stop(**json.loads(wanted))
    if stop is not None and stop.phase == "half":
        signal.signal(signal.SIGXFSZ, lambda number, frame: _halt())

    def on_event(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename") or not isinstance(arguments[0], str | os.PathLike):
            return
        path = Path(arguments[0])
        name = result_of(path)
        if name is None:
            return
        if event == "os.rename" and log is not None:
            write = Write(stage(), name, path.stat().st_size)
            with Path(log).open("a", encoding="utf-8") as lines:
                lines.write(f"{json.dumps(asdict(write))}\n")
        if stop is not None and (stop.stage, stop.name) == (stage(), name):
            _reach(stop, event, path)

    sys.addaudithook(on_event)


def _reach(stop: Stop, event: str, path: Path) -> None:
    """Stop here if the write has come that far."""
    if event == "os.rename" or (stop.phase == "empty" and path.exists()):
        _halt()
    elif stop.phase == "half":  # a write beyond the limit ends at it, and sends SIGXFSZ
        resource.setrlimit(resource.RLIMIT_FSIZE, (stop.half, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def _halt() -> None:
    """Stop all threads of this process until it is killed."""
    os.kill(os.getpid(), signal.SIGSTOP)
