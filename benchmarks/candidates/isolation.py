"""A process for each candidate: what one leaves behind in memory, caches or threads cannot touch the others.

The rounds stay interleaved, since the parent says whose turn it is; each process times its own calls, so the pipes
between them are in no sample. It also tells what only a fresh process can: cold start and peak memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ...errors import DcpDeployError, InputError, MissingCapabilityError, StaleArtifactError, UsageError
from ..machine.roofline import Work
from .candidate import Candidate, ColdStart, Memory, Phases
from .matrix import BACKENDS, Spec

# Says that the interpreter runs before anything slow is imported.
_PROGRAM = 'import os; os.write(1, b"{}\\n"); from dcp_deploy.benchmarks.candidates.worker import main; main()'
_SECONDS_TO_END = 10.0


@contextmanager
def isolated() -> Iterator[Callable[[Spec], Candidate]]:
    """Opens specs, each in a process of its own; all of them end with the block."""
    with ExitStack() as stack:
        yield lambda spec: _candidate(spec, stack)


class Worker:
    """One process and the lines to it."""

    def __init__(self, spec: Spec, command: list[str] | None = None) -> None:
        self.spec = spec
        self.process = subprocess.Popen(
            command or [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            encoding="utf-8",
        )  # fmt: skip

    def answer(self) -> dict[str, Any]:
        """The next line. MissingCapabilityError when the process has ended instead: out of memory, for one."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            raise MissingCapabilityError(
                f"the process of {self.spec.model} on {self.spec.backend} ended with {code}", "see what it wrote above"
            )
        document: dict[str, Any] = json.loads(line)
        return document

    def ask(self, request: object) -> dict[str, Any]:
        """Send one line and wait for its answer."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:  # it has ended: the missing answer tells
            pass
        return self.answer()

    def close(self) -> None:
        """End the process: kindly, then for good."""
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                continue
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
    facts = worker.ask({"spec": spec.to_dict()})
    loaded = time.perf_counter()
    if "error" in facts:
        raise error_of(facts["error"])
    opened = facts["opened"]
    cold = ColdStart((started - begin) * 1e3, (loaded - started) * 1e3, float(worker.ask("call")["ms"]))
    device_bytes = worker.ask("memory")["device_bytes"]  # now: candidates that are opened later share the device
    return Candidate(
        lambda: SimpleNamespace(shape=tuple(worker.ask("call")["shape"])),
        spec.model,
        spec.backend,
        precision=opened["precision"],
        threads=spec.threads,
        file_bytes=opened["file_bytes"],
        file=Path(spec.path).name,
        device=BACKENDS[spec.backend].device,
        build_seconds=opened["build_seconds"],
        batch=spec.batch,
        work=None if opened["work"] is None else Work(**opened["work"]),
        cold_start=cold,
        measure=lambda: float(worker.ask("call")["ms"]),
        phases=(lambda: Phases(**worker.ask("phases"))) if opened["phases"] else None,
        memory=lambda: Memory(worker.ask("memory")["host_bytes"], device_bytes),
    )


def error_of(told: dict[str, Any]) -> DcpDeployError:
    """The error of another process, of the class that ends with its exit code."""
    kinds = {2: UsageError, 3: InputError, 4: MissingCapabilityError, 6: StaleArtifactError}
    return kinds.get(told["exit_code"], DcpDeployError)(told["message"], told["remedy"])
