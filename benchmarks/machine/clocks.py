"""Whether the machine kept its clocks while it measured."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

FALL = 0.1  # share of its highest clock that a CPU may lose before a note says so
SECONDS = 1.0  # between two looks
_THROTTLES = {
    0x04: "power cap", 0x08: "hardware slowdown", 0x20: "too hot (software)", 0x40: "too hot (hardware)",
    0x80: "power brake",
}  # fmt: skip
"""Bits of NVML's clocks event reasons that mean slower than could be (nvml.h); idle and chosen clocks do not."""


@dataclass(frozen=True)
class Clocks:
    """Clocks during a run; None where the machine does not tell."""

    cpu_mhz: tuple[float, float] | None
    """Lowest and highest seen, averaged over the cores."""
    gpu_mhz: int | None
    """Right after the last round."""
    gpu_throttled: tuple[str, ...] | None
    """Why the GPU was held back at that moment; empty: it was not."""

    def notes(self) -> list[str]:
        """What a reader should know."""
        found = []
        if self.cpu_mhz is not None and self.cpu_mhz[0] < (1 - FALL) * self.cpu_mhz[1]:
            low, high = self.cpu_mhz
            found.append(f"Clocks: the CPU ran at {low:.0f} to {high:.0f} MHz during the run.")
        if self.gpu_throttled:
            found.append(f"Throttled: the GPU was held back ({', '.join(self.gpu_throttled)}).")
        return found


class ClockMeter:
    """Looks at the CPU's clock now and then between rounds, at the GPU's at the end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._next, self._seen = clock, clock(), list[float]()

    def look(self) -> None:
        """Read the CPU's clock, at most once a second."""
        if self._clock() >= self._next:
            self._next = self._clock() + SECONDS
            frequency = cpu_mhz()
            self._seen += [] if frequency is None else [frequency]

    def clocks(self) -> Clocks:
        """What was seen since the meter was made."""
        gpu = gpu_clocks()
        return Clocks(
            cpu_mhz=(min(self._seen), max(self._seen)) if self._seen else None,
            gpu_mhz=None if gpu is None else gpu[0],
            gpu_throttled=None if gpu is None else throttles(gpu[1]),
        )


def cpu_mhz() -> float | None:
    """Clock of the cores now, on average; None where it is not to be had."""
    try:
        frequency = psutil.cpu_freq()
    except (OSError, NotImplementedError, AttributeError):  # by system and by container
        return None
    return float(frequency.current) if frequency is not None and frequency.current > 0 else None


def gpu_clocks() -> tuple[int, int] | None:
    """Clock of the first GPU's multiprocessors in MHz and the mask of why it is no higher; None without nvidia-smi."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=clocks.sm,clocks_throttle_reasons.active", "--format=csv,noheader,nounits"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
        megahertz, mask = found.splitlines()[0].split(",")
        return int(megahertz), int(mask, 16)
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):  # no GPU, or it tells no clocks
        return None


def throttles(mask: int) -> tuple[str, ...]:
    """The reasons in NVML's mask that hold a GPU back."""
    return tuple(reason for bit, reason in _THROTTLES.items() if mask & bit)
