"""Torch devices by name, and the processors that this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

from .errors import MissingCapabilityError, UsageError


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


def usable_cores() -> int:
    """Return how many cores this process may keep busy: by its affinity and the quota of its control group."""
    cores, quota = len(os.sched_getaffinity(0)), cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def cpu_quota() -> float | None:
    """Return the cores' worth of time that the control group allows; None without a limit, or if it is not known.

    Version 2 groups write "max 100000" or "200000 100000", in microseconds.
    """
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def default_threads() -> int:
    """Return the number of threads that every backend gets by default.

    It is torch's own, which follows OMP_NUM_THREADS and the affinity, within the quota of the control group.
    """
    import torch

    return min(torch.get_num_threads(), usable_cores())
