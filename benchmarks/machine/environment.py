"""The machine, the versions and the command behind a measurement.

A probe that fails leaves ``None``; the record is always made.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import psutil

from ...devices import LoadMeter, cpu_quota, usable_cores
from ...progress import Progress

PACKAGES = ("dcp-deploy", "torch", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx", "numpy")

T = TypeVar("T")


@dataclass(frozen=True)
class Environment:
    """Where and how something was measured. ``None`` means unknown."""

    time_utc: str
    command: str
    cpu: str | None
    cores: int | None
    """Physical cores of the machine."""
    usable_cores: int | None
    """Logical cores this process may run on."""
    cpu_quota: float | None
    """Cores' worth of time a container may use; None when unlimited."""
    memory_bytes: int | None
    gpu: str | None
    """Name and driver of the first GPU; None without one."""
    os: str
    python: str
    packages: dict[str, str] = field(default_factory=dict)
    torch_threads: int | None = None
    load_average: float | None = None
    """Runnable processes over the minute before the measurement, as the kernel counts them."""
    git_commit: str | None = None
    """Commit of the checkout this package runs from, "-dirty" appended when tracked files differ."""


def capture_environment() -> Environment:
    """Describe this process and its machine now, in some tens of milliseconds. Never raises."""
    return Environment(
        time_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        cpu=_or_none(_cpu_model),
        cores=_or_none(lambda: psutil.cpu_count(logical=False)),
        usable_cores=_or_none(usable_cores),
        cpu_quota=_or_none(cpu_quota),
        memory_bytes=_or_none(lambda: int(psutil.virtual_memory().total)),
        gpu=_or_none(_gpu),
        os=_or_none(_os_name) or platform.platform(),
        python=platform.python_version(),
        packages=_versions(),
        torch_threads=_or_none(_torch_threads),
        load_average=_or_none(lambda: round(os.getloadavg()[0], 2)),
        git_commit=_or_none(_git_commit),
    )


BUSY = 0.1
"""Share of the usable cores that other processes may take while the machine still counts as quiet."""
_OBSERVED = 2.0  # seconds of each look while waiting


def wait_until_quiet(
    seconds: float,
    *,
    progress: Progress | None = None,
    others: Callable[[], float | None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Wait until other processes take at most ``BUSY`` of the usable cores, and return whether they do.

    ``seconds``: the longest wait; 0 returns at once with True, for nothing was asked. ``progress`` counts seconds.
    ``others`` observes the cores that others take over a short while, in a call that lasts as long.
    """
    begin = clock()
    while seconds > 0:
        taken = (others or _observed)()
        if taken is None or taken <= BUSY * usable_cores():
            return True
        if clock() - begin >= seconds:
            return False
        if progress is not None:
            progress(int(clock() - begin), int(seconds))
    return True


def _observed() -> float | None:
    meter = LoadMeter()
    time.sleep(_OBSERVED)
    return meter.others()


def _or_none(probe: Callable[[], T]) -> T | None:
    try:
        return probe()
    except Exception:  # probes meet unknown machines, and the record must always be made
        return None


def _cpu_model() -> str | None:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _os_name() -> str:
    pretty = platform.freedesktop_os_release()["PRETTY_NAME"]
    return f"{pretty}, {platform.system()} {platform.release()} {platform.machine()}"


def _gpu() -> str | None:
    name, _, driver = (query_gpu("name,driver_version") or "").rpartition(", ")
    return f"{name}, driver {driver}" if driver else None


def query_gpu(fields: str) -> str | None:
    """Return nvidia-smi's line about the first GPU, fields separated by commas; None without it or without a GPU.

    Raises OSError or SubprocessError when nvidia-smi fails.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    lines = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.splitlines()
    return lines[0] if lines else None


def _torch_threads() -> int | None:
    torch = sys.modules.get("torch")  # only if the measurement itself imported it
    return None if torch is None else int(torch.get_num_threads())


def _versions() -> dict[str, str]:
    versions = {package: _or_none(partial(metadata.version, package)) for package in PACKAGES}
    return {package: version for package, version in versions.items() if version is not None}


def _git_commit() -> str | None:
    source = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(source.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    git("ls-files", "--error-unmatch", source.name)  # fails for a copy that is installed inside another checkout
    commit = git("rev-parse", "HEAD")
    return f"{commit}-dirty" if git("status", "--porcelain", "--untracked-files=no") else commit
