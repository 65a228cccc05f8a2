"""What to compute on: a torch device, and as many CPU threads as this process may use and other processes leave free.

Threads that share a core with another process wait for each other at the end of every operator. With two busy
processes on two cores, two threads trained several times slower than one.
"""

from __future__ import annotations

import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import MissingCapabilityError, UsageError

VARIABLE = "OMP_NUM_THREADS"
"""The environment variable in which users, schedulers and containers state a number of threads. Torch reads it too."""

WINDOW = 0.25  # seconds of one look at the load; the kernel counts in steps of 10 ms
LOOKS = 4  # the machine is loaded only if every look shows it: a short burst does not decide hours of training

_GROUPS, _MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_STATISTICS, _TOPOLOGY = Path("/proc/stat"), Path("/sys/devices/system/cpu")


def torch_device(name: str) -> str:
    """Return the name of a usable torch device; "auto" chooses the GPU if there is one.

    Raises UsageError for an unknown name, MissingCapabilityError if this machine has no such device.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if torch.device(name).type not in ("cpu", "cuda"):
            raise UsageError(f"device {name!r} is not supported", "Use auto, cpu, cuda or cuda:N.")
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}", "Use auto, cpu, cuda or cuda:N.") from error
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises AssertionError
        reason = str(error).splitlines()[0]
        raise MissingCapabilityError(f"device {name!r} cannot be used: {reason}", "Use --device cpu.") from error
    return name


# ---- what this process may use ----


def usable_cores() -> int:
    """Return the number of logical cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def cpu_quota() -> float | None:
    """Return the cores' worth of time that control groups (version 1 or 2) allow; None if unlimited or not known."""
    try:
        return min(_quotas(), default=None)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quotas() -> Iterator[float]:
    """Yield the quotas of this process's control group and of those that contain it."""
    for line in _MEMBERSHIP.read_text(encoding="utf-8").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = _GROUPS / controllers if controllers else _GROUPS
        place = top / group.strip("/")
        for folder in (place, *place.parents):
            yield from _quota_of(folder)
            if folder == top:
                break


def _quota_of(folder: Path) -> list[float]:
    """Return the quota of one control group, if it has one: "max 100000" or "200000 100000" (microseconds)."""
    version_2, version_1 = folder / "cpu.max", [folder / f"cpu.cfs_{name}_us" for name in ("quota", "period")]
    if version_2.is_file():
        quota, period = version_2.read_text(encoding="utf-8").split()
    elif all(path.is_file() for path in version_1):
        quota, period = (path.read_text(encoding="utf-8").strip() for path in version_1)
    else:
        return []
    return [] if quota in ("max", "-1") else [int(quota) / int(period)]


def stated_threads() -> int | None:
    """Return the number of threads that ``OMP_NUM_THREADS`` states; None without a valid one."""
    first = os.environ.get(VARIABLE, "").split(",")[0].strip()  # "4,2" also names nested levels
    return int(first) if first.isdecimal() and int(first) > 0 else None


def default_threads() -> int:
    """Return how many threads to compute with if nobody else needs the cores.

    That is ``OMP_NUM_THREADS`` if it is set. Else it is torch's own number where torch is loaded, or the number of
    physical cores that this process may use, which torch takes too; and at most the quota.
    """
    torch = sys.modules.get("torch")
    return stated_threads() or min(_physical_cores() if torch is None else torch.get_num_threads(), _within_quota())


def _physical_cores() -> int:
    """Return the number of physical cores behind the logical ones that this process may run on."""
    usable = os.sched_getaffinity(0)
    try:
        return len({(_TOPOLOGY / f"cpu{core}/topology/thread_siblings_list").read_text() for core in usable})
    except OSError:
        return len(usable)


def _within_quota() -> int:
    """Return the most threads that do not exceed the quota; one more would make all wait for it."""
    quota = cpu_quota()
    return usable_cores() if quota is None else max(1, math.floor(quota))


# ---- what others leave free ----


class LoadMeter:
    """Measures the time that other processes and other guests take of the cores that this process may use."""

    SHORTEST = 1.0  # seconds of a measurement of which the figure is reported

    def __init__(self, shortest: float = SHORTEST) -> None:
        self.shortest, self._begin = shortest, _reading()

    def others(self) -> float | None:
        """Return the cores taken since the meter was made; None when that is too recent or not known."""
        now = _reading()
        if now is None or self._begin is None or now[0] - self._begin[0] < self.shortest:
            return None
        elapsed, machine, own = (after - before for after, before in zip(now, self._begin, strict=True))
        return max(0.0, (machine - own) / elapsed)


def _reading() -> tuple[float, float, float] | None:
    import psutil

    try:
        return busy_seconds()
    except (OSError, ValueError, psutil.Error):
        return None


def busy_seconds() -> tuple[float, float, float]:
    """Return the clock, the busy seconds of the usable cores, and those of this process and its children.

    Time stolen by other guests of the host counts as busy.
    """
    import psutil

    usable, ticks, busy = os.sched_getaffinity(0), os.sysconf("SC_CLK_TCK"), 0
    for line in _STATISTICS.read_text(encoding="utf-8").splitlines():
        name, *counts = line.split()
        if (core := re.fullmatch(r"cpu(\d+)", name)) and int(core[1]) in usable:
            user, nice, system, _idle, _waiting, irq, softirq, steal = map(int, counts[:8])  # guest time is in user
            busy += user + nice + system + irq + softirq + steal
    this = psutil.Process()
    own = sum(sum(process.cpu_times()[:4]) for process in (this, *this.children(recursive=True)))  # ended children too
    return time.monotonic(), busy / ticks, own


@dataclass(frozen=True)
class Choice:
    """A number of threads, and what decided it. ``str()`` is ``1 CPU thread, because other processes take ...``."""

    threads: int
    because: str = ""
    """Empty for the default on a quiet machine."""

    def __str__(self) -> str:
        counted = f"{self.threads} CPU thread{'' if self.threads == 1 else 's'}"
        return f"{counted}, {self.because}" if self.because else counted


def choose_threads(most: int, *, sleep: Callable[[float], None] = time.sleep) -> Choice:
    """Choose at most ``most`` threads: as many as other processes leave cores free, to the nearest whole number.

    A quiet machine is looked at for a quarter of a second, a loaded one for a second. ``most`` is chosen where the load
    cannot be read.
    """
    lowest = math.inf
    for _ in range(LOOKS if most > 1 else 0):
        meter = LoadMeter(shortest=WINDOW / 2)
        sleep(WINDOW)
        lowest = min(lowest, meter.others() or 0.0)
        if _free(lowest) >= most:
            return Choice(most)
    if math.isinf(lowest):
        return Choice(most)
    return Choice(_free(lowest), f"because other processes take {lowest:.1f} of {usable_cores()} cores")


def _free(others: float) -> int:
    return max(1, math.floor(usable_cores() - others + 0.5))


# ---- computing with a number of threads ----


def check_threads(threads: int | None) -> None:
    """Raise UsageError for a number of threads below 1."""
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}", "Use 1 or more.")


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Let torch compute with ``count`` threads inside the block; None leaves the number as it is."""
    import torch

    before = torch.get_num_threads()  # global: changed for this block only
    if count is None or count == before:  # setting the same number again could make MKL split its sums otherwise
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def computing(threads: int | None = None, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Let everything inside the block compute with this number of threads: torch, ONNX Runtime, OpenVINO, children.

    ``threads`` of None means ``OMP_NUM_THREADS`` if it is set, else the number that other processes leave free; a lower
    one than on a quiet machine is passed to ``say``. On a quiet machine without a quota nothing is changed. Raises
    UsageError for a number below 1.
    """
    check_threads(threads)
    if threads is None and stated_threads() is not None:
        yield
        return
    number = threads
    if number is None:
        choice = choose_threads(default_threads())
        if choice.because and say is not None:
            say(f"computing on {choice}; --threads N overrides this")
        number = choice.threads
        if number >= _physical_cores():
            yield
            return
    with _stated(number):
        yield


@contextmanager
def _stated(number: int) -> Iterator[None]:
    """State the number in the environment, for what is imported and started inside, and to torch if it is loaded."""
    before = os.environ.get(VARIABLE)
    torch = sys.modules.get("torch")
    of_torch = None if torch is None else torch.get_num_threads()
    os.environ[VARIABLE] = str(number)
    if torch is not None and of_torch != number:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before
        if (loaded := sys.modules.get("torch")) is not None and loaded.get_num_threads() == number != of_torch:
            loaded.set_num_threads(of_torch or min(_physical_cores(), _within_quota()))
