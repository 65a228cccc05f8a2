"""Start processes that end with this one, and stop them with everything that they have started."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil

from .leftovers import Scratch, is_alive, kill_group, remove_shared_memory
from .ports import LOCAL

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def start(
    command: Sequence[str],
    environment: dict[str, str],
    output: IO[bytes] | None,
    *,
    lock: int,
    report: int | None = None,
    stdin: int = subprocess.DEVNULL,
    orphan: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a process in a group of its own, which holds the file ``lock`` and can write to the pipe ``report``.

    It gets SIGTERM when this process ends, unless it may live on as an ``orphan``. ``output``: where it writes; by
    default this process's standard error.
    """
    parent = os.getpid()

    def end_with_parent() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it has ended meanwhile
            os.kill(os.getpid(), signal.SIGTERM)

    return subprocess.Popen(
        command,
        env=environment,
        stdin=stdin,
        stdout=output or sys.stderr,
        stderr=subprocess.STDOUT if output else None,
        pass_fds=(lock,) if report is None else (lock, report),
        start_new_session=True,  # Ctrl-C reaches only this process, which then stops the others in order
        preexec_fn=None if orphan else end_with_parent,
    )


def stop(process: subprocess.Popen[bytes], seconds: float) -> None:
    """End a process with SIGTERM, after ``seconds`` with SIGKILL, and all that it left in its group."""
    try:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
    finally:  # also if this process was interrupted again
        kill_group(process.pid)
        process.wait()
        if process.stdin is not None:
            with suppress(BrokenPipeError):
                process.stdin.close()


class Triton:
    """NVIDIA's server as a process that can be started again, and the processes of its models."""

    def __init__(
        self, command: Sequence[str], environment: dict[str, str], output: IO[bytes] | None, scratch: Scratch, port: int
    ) -> None:
        self.command, self.environment, self.output, self.scratch = command, environment, output, scratch
        self.http = f"http://{LOCAL}:{port}"
        self.models: dict[psutil.Process, str] = {}
        self.running: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """Return the process, which must have been started."""
        assert self.running is not None
        return self.running

    def start(self) -> None:
        """Start the process."""
        self.models = {}
        self.running = start(self.command, self.environment, self.output, lock=self.scratch.lock)

    def stop(self, seconds: float) -> None:
        """Stop it in order, if it runs; after ``seconds`` kill it."""
        if self.running is not None:
            stop(self.running, seconds)

    def kill(self) -> None:
        """Kill it and its models, and remove their shared memory."""
        kill_group(self.process.pid)
        self.process.wait()
        remove_shared_memory(self.scratch.folder)

    def loaded(self) -> None:
        """Remember the processes of the models, which Triton has started by now."""
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children(recursive=True)
            self.models = {child: _model_name(child) for child in children}

    def dead_model(self) -> str | None:
        """Return the name of a model whose process has died, None while all run."""
        return next((name for process, name in self.models.items() if not is_alive(process)), None)


def _model_name(process: psutil.Process) -> str:
    """Return the model that a process of the Python backend runs: the folder of its model.py."""
    with suppress(psutil.Error):
        for word in process.cmdline():
            if word.endswith(f"{os.sep}model.py"):
                return Path(word).parts[-3]
    return "unknown"
