"""CPU and GPU clocks during a run: did they fall?"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from .environment import query_gpu

FALL = 0.1  # share of its highest clock that a CPU may lose without a caveat
SECONDS = 1.0  # between two readings
_THROTTLES = {
    0x04: "power cap", 0x08: "hardware slowdown", 0x20: "too hot (software)", 0x40: "too hot (hardware)",
    0x80: "power brake",
}  # fmt: skip
"""NVML's clock event reasons (nvml.h) that mean throttling; idle and chosen clocks are not among them."""


@dataclass(frozen=True)
class Clocks:
    """Clocks during a run; None where the machine does not report them."""

    cpu_mhz: tuple[float, float] | None
    """Lowest and highest average over the cores."""
    gpu_mhz: int | None
    """Clock of the GPU right after the last round."""
    gpu_throttled: tuple[str, ...] | None
    """Why the GPU was throttled at that moment; empty if it was not."""

    def caveats(self) -> list[str]:
        """Return a sentence for a CPU clock that fell, and one for a throttled GPU."""
        found = []
        if self.cpu_mhz is not None and self.cpu_mhz[0] < (1 - FALL) * self.cpu_mhz[1]:
            low, high = self.cpu_mhz
            found.append(f"Clocks: the CPU ran at {low:.0f} to {high:.0f} MHz during the run.")
        if self.gpu_throttled:
            found.append(f"Throttled: the GPU ran below its possible clock ({', '.join(self.gpu_throttled)}).")
        return found


class ClockMeter:
    """Reads the CPU's clock now and then between rounds, and the GPU's at the end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._next, self._readings = clock, clock(), list[float]()

    def sample(self) -> None:
        """Read the CPU's clock, at most once a second."""
        if self._clock() >= self._next:
            self._next = self._clock() + SECONDS
            frequency = cpu_mhz()
            self._readings += [] if frequency is None else [frequency]

    def clocks(self) -> Clocks:
        """Return the clocks since the meter was made."""
        gpu = gpu_clocks()
        return Clocks(
            cpu_mhz=(min(self._readings), max(self._readings)) if self._readings else None,
            gpu_mhz=None if gpu is None else gpu[0],
            gpu_throttled=None if gpu is None else throttles(gpu[1]),
        )


def cpu_mhz() -> float | None:
    """Return the average clock of the cores now; None where the system does not report it."""
    try:
        frequency = psutil.cpu_freq()
    except (OSError, NotImplementedError, AttributeError):  # depends on the system and the container
        return None
    return float(frequency.current) if frequency is not None and frequency.current > 0 else None


def gpu_clocks() -> tuple[int, int] | None:
    """Return the clock of the first GPU in MHz and the mask of what limits it; None without nvidia-smi."""
    try:
        megahertz, mask = (query_gpu("clocks.sm,clocks_throttle_reasons.active") or "").split(",")
        return int(megahertz), int(mask, 16)
    except (OSError, subprocess.SubprocessError, ValueError):  # no GPU, or one that does not report clocks
        return None


def throttles(mask: int) -> tuple[str, ...]:
    """Return the reasons in NVML's mask that throttle a GPU."""
    return tuple(reason for bit, reason in _THROTTLES.items() if mask & bit)
