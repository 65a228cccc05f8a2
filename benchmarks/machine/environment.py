"""The machine, the versions and the command behind a measurement.

Every probe is guarded: one that fails leaves ``None``, and the record is always made.
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
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import psutil

PACKAGES = ("dcp-deploy", "torch", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx", "numpy")

T = TypeVar("T")


@dataclass(frozen=True)
class Environment:
    """Where and how something was measured. ``None`` means that it could not be found out."""

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
    """Name and driver of the first GPU; None when there is none."""
    os: str
    python: str
    packages: dict[str, str] = field(default_factory=dict)
    torch_threads: int | None = None
    load_average: float | None = None
    """Runnable processes over the minute before the measurement, as the kernel counts them."""
    git_commit: str | None = None
    """Commit of the checkout this package runs from, "-dirty" appended when tracked files differ."""


def capture_environment() -> Environment:
    """Describe this process and its machine now. Never raises; takes some tens of milliseconds."""
    return Environment(
        time_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        cpu=_guard(_cpu_model),
        cores=_guard(lambda: psutil.cpu_count(logical=False)),
        usable_cores=_guard(lambda: len(os.sched_getaffinity(0))),
        cpu_quota=_guard(_cpu_quota),
        memory_bytes=_guard(lambda: int(psutil.virtual_memory().total)),
        gpu=_guard(_gpu),
        os=_guard(_os_name) or platform.platform(),
        python=platform.python_version(),
        packages=_versions(),
        torch_threads=_guard(_torch_threads),
        load_average=_guard(lambda: round(os.getloadavg()[0], 2)),
        git_commit=_guard(_git_commit),
    )


class LoadMeter:
    """How many cores' worth of time other processes, and other guests of the host, take from now on."""

    SHORTEST = 1.0  # seconds; the kernel counts in steps of 10 ms, so less says nothing

    def __init__(self) -> None:
        self._begin = _guard(_busy_seconds)

    def others(self) -> float | None:
        """Cores taken since the meter was made; None when that is too short ago or not known here."""
        now = _guard(_busy_seconds)
        if now is None or self._begin is None or now[0] - self._begin[0] < self.SHORTEST:
            return None
        elapsed, machine, own = (after - before for after, before in zip(now, self._begin, strict=True))
        return max(0.0, (machine - own) / elapsed)


def _busy_seconds() -> tuple[float, float, float]:
    """(now, busy time of all cores, our own processor time). Time stolen by other guests counts as busy.

    Our own is that of this process and of its children, in which isolated candidates run.
    """
    cpu, this = psutil.cpu_times(), psutil.Process()
    kinds = ("user", "nice", "system", "irq", "softirq", "steal")  # guest time is part of user
    own = sum(sum(process.cpu_times()[:4]) for process in (this, *this.children(recursive=True)))  # ended children too
    return time.monotonic(), sum(getattr(cpu, kind, 0.0) for kind in kinds), own


def _guard(probe: Callable[[], T]) -> T | None:
    try:
        return probe()
    except Exception:  # a probe looks at a machine nobody has seen; whatever it meets, the record must be made
        return None


def _cpu_model() -> str | None:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cpu_quota() -> float | None:
    """Quota of a version 2 control group, as containers set it: "max 100000" or "200000 100000" (microseconds)."""
    quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
    return None if quota == "max" else int(quota) / int(period)


def _os_name() -> str:
    pretty = platform.freedesktop_os_release()["PRETTY_NAME"]
    return f"{pretty}, {platform.system()} {platform.release()} {platform.machine()}"


def _gpu() -> str | None:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    if not found:
        return None
    name, _, driver = found.splitlines()[0].rpartition(", ")
    return f"{name}, driver {driver}"


def _torch_threads() -> int | None:
    torch = sys.modules.get("torch")  # only what this process measured with, never imported for the record's sake
    return None if torch is None else int(torch.get_num_threads())


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git_commit() -> str | None:
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    git("ls-files", "--error-unmatch", here.name)  # an installed copy below somebody's checkout is not that checkout
    commit = git("rev-parse", "HEAD")
    return f"{commit}-dirty" if git("status", "--porcelain", "--untracked-files=no") else commit
