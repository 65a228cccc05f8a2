"""A process for each candidate, so that its memory, caches and threads cannot affect the others.

The rounds stay interleaved, since the parent requests every call. Each process times its own calls, so no sample
includes the pipes. Fresh processes also make it possible to measure cold start and peak memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

from ...errors import DcpDeployError, InputError, MissingCapabilityError, StaleArtifactError, UsageError
from ..machine.roofline import Work
from .candidate import Candidate, ColdStart, Memory, Phases
from .matrix import Spec
from .worker import FACTS

# Reports that the interpreter runs before it imports anything slow.
_PROGRAM = 'import os; os.write(1, b"{}\\n"); from dcp_deploy.benchmarks.candidates.worker import main; main()'
_SECONDS_TO_END = 10.0


@contextmanager
def isolated() -> Iterator[Callable[[Spec], Candidate]]:
    """Yield a function that opens each spec in its own process; all processes end with the block."""
    with ExitStack() as stack:
        yield lambda spec: _candidate(spec, stack)


class Worker:
    """One process and the pipes to it."""

    def __init__(self, spec: Spec, command: list[str] | None = None) -> None:
        self.spec = spec
        self.process = subprocess.Popen(
            command or [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            encoding="utf-8",
        )  # fmt: skip

    def answer(self) -> dict[str, Any]:
        """Return the next answer. MissingCapabilityError when the process has ended, for example out of memory."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            raise MissingCapabilityError(
                f"the process of {self.spec.model} on {self.spec.backend} ended with {code}", "See what it wrote above."
            )
        return dict(json.loads(line))

    def ask(self, request: object) -> dict[str, Any]:
        """Send one request and wait for its answer."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # the process has ended; the missing answer raises the error
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        """End the process by closing its pipes, or kill it if it does not end in time."""
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()
        try:
            self.process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _candidate(spec: Spec, stack: ExitStack) -> Candidate:
    begin = time.perf_counter()
    worker = Worker(spec)
    stack.callback(worker.close)
    worker.answer()
    started = time.perf_counter()
    facts = worker.ask({"spec": asdict(spec)})
    loaded = time.perf_counter()
    if "error" in facts:
        raise error_of(facts["error"])
    opened = facts["opened"]
    cold = ColdStart((started - begin) * 1e3, (loaded - started) * 1e3, float(worker.ask("call")["ms"]))
    device_bytes = worker.ask("memory")["device_bytes"]  # before other candidates use the device
    return spec.candidate(
        lambda: SimpleNamespace(shape=tuple(worker.ask("call")["shape"])),
        **{name: opened[name] for name in FACTS},
        work=None if opened["work"] is None else Work(**opened["work"]),
        cold_start=cold,
        measure=lambda: float(worker.ask("call")["ms"]),
        phases=(lambda: Phases(**worker.ask("phases"))) if opened["phases"] else None,
        memory=lambda: Memory(worker.ask("memory")["host_bytes"], device_bytes),
    )


def error_of(document: dict[str, Any]) -> DcpDeployError:
    """Return the error of another process, as the class that has its exit code."""
    kinds = {2: UsageError, 3: InputError, 4: MissingCapabilityError, 6: StaleArtifactError}
    return kinds.get(document["exit_code"], DcpDeployError)(document["message"], document["remedy"])
