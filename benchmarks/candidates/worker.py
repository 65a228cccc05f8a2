"""The child process of :mod:`.isolation`: one candidate, called by request.

    request         answer

    {"spec": ...}   {"opened": facts} or {"error": ...}
    "call"          {"ms": ..., "shape": ...}
    "phases"        {"copy_in_ms": ...}
    "memory"        {"host_bytes": ..., "device_bytes": ...}

Requests and answers are one line of JSON each. The process ends at the end of its input.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from ...errors import DcpDeployError
from .candidate import Candidate, Memory
from .matrix import BACKENDS, Spec


def main() -> None:
    """Serve on stdin and stdout; output that libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, answers)


def serve(requests: TextIO, answers: TextIO) -> None:
    """Open the candidate of the first request, then answer the others."""
    from .loading import open_candidate

    def answer(document: dict[str, Any]) -> None:
        answers.write(json.dumps(document) + "\n")
        answers.flush()

    spec = Spec(**json.loads(requests.readline())["spec"])
    before = device_bytes_in_use(spec)
    try:
        candidate = open_candidate(spec)
    except DcpDeployError as error:
        answer({"error": {"exit_code": error.exit_code, "message": error.message, "remedy": error.remedy}})
        return
    facts = {name: getattr(candidate, name) for name in ("precision", "file_bytes", "build_seconds")}
    work = candidate.work and asdict(candidate.work)
    answer({"opened": {**facts, "work": work, "phases": candidate.phases is not None}})
    handlers: dict[str, Callable[[], dict[str, Any]]] = {
        "call": lambda: timed_call(candidate),
        "phases": lambda: asdict(candidate.phases()) if candidate.phases else {},
        "memory": lambda: asdict(Memory(peak_host_bytes(), _increase(before, device_bytes_in_use(spec)))),
    }
    for line in requests:
        answer(handlers[json.loads(line)]())


def timed_call(candidate: Candidate, clock: Callable[[], float] = time.perf_counter) -> dict[str, Any]:
    """Return the milliseconds of one call and the shape of its images."""
    begin = clock()
    images = candidate()
    elapsed = (clock() - begin) * 1e3
    return {"ms": elapsed, "shape": list(getattr(images, "shape", []))}


def peak_host_bytes(status: Path = Path("/proc/self/status")) -> int | None:
    """Return this process's peak resident memory from the kernel's record; getrusage would include the parent's."""
    try:
        lines = status.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


def device_bytes_in_use(spec: Spec) -> int | None:
    """Return the GPU memory in use by all processes; None for a candidate on the CPU."""
    if BACKENDS[spec.backend].device == "cpu":
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    return int(total - free)


def _increase(before: int | None, after: int | None) -> int | None:
    return None if after is None or before is None else max(0, after - before)
