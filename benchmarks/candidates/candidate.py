"""What the harness times: a function without arguments, its fixed inputs, and what is known about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..machine.roofline import Work

Inputs = tuple[Any, Any, Any]
"""z, psi and c as arrays on the host; c is None for unconditional generators."""


def fixed_inputs(z_dim: int, c_dim: int, batch: int, seed: int) -> Inputs:
    """Return z [batch, z_dim] normal from ``seed``, psi 1 and classes in turn, all float32; c None if c_dim is 0."""
    z = np.random.default_rng(seed).standard_normal((batch, z_dim)).astype(np.float32)
    psi = np.ones(batch, np.float32)
    return z, psi, np.eye(c_dim, dtype=np.float32)[np.arange(batch) % c_dim] if c_dim else None


@dataclass(frozen=True)
class Phases:
    """Milliseconds of the parts of one call on the device, measured by its own events."""

    copy_in_ms: float
    compute_ms: float
    copy_out_ms: float
    enqueue_ms: float
    """Time the host took to enqueue the computation."""

    @property
    def enqueue_bound(self) -> bool:
        """Whether the device mostly waited for the host's launches, because enqueueing took as long as computing."""
        return self.enqueue_ms >= 0.9 * self.compute_ms


@dataclass(frozen=True)
class ColdStart:
    """Milliseconds from starting a process to its first images."""

    start_ms: float
    """Until the interpreter ran."""
    load_ms: float
    """Imports, reading the file, preparing to run it."""
    first_ms: float
    """The first call."""

    @property
    def total_ms(self) -> float:
        """The sum of the three parts."""
        return self.start_ms + self.load_ms + self.first_ms


@dataclass(frozen=True)
class Memory:
    """Bytes that a process with one candidate used; None where not measured."""

    host_bytes: int | None
    """Peak resident memory, interpreter and libraries included."""
    device_bytes: int | None
    """GPU memory after the first call, beyond what was in use before the candidate was loaded."""


@dataclass(frozen=True)
class Skipped:
    """A candidate that cannot run on this machine."""

    name: str
    reason: str


@dataclass(frozen=True)
class Candidate:
    """Something to time, and the labels to write beside its figures."""

    run: Callable[[], object]
    """One call on fixed inputs; images are on the host when it returns."""
    model: str
    backend: str
    precision: str = "fp32"
    threads: int | None = None
    file_bytes: int | None = None
    file: str | None = None
    device: str = "cpu"
    build_seconds: float | None = None
    """Seconds it took to make the file, where the file records them."""
    batch: int | None = None
    """Images per call; None: the batch of the run."""
    baseline: str | None = None
    """Name of the candidate that its speed-up is over; None: the baseline of the run."""
    work: Work | None = None
    """Operations and bytes of one call."""
    cold_start: ColdStart | None = None
    measure: Callable[[], float] | None = None
    """Milliseconds of one call, for a candidate that times itself because it is in another process."""
    phases: Callable[[], Phases] | None = None
    """Phases of one call, where the device can measure them."""
    memory: Callable[[], Memory] | None = None
    """Reads the memory; called after the last call."""

    def __call__(self) -> object:
        return self.run()

    def labels(self) -> dict[str, Any]:
        """Return what identifies the candidate, for the JSON row."""
        names = ("model", "backend", "precision", "threads", "file_bytes", "file", "device", "build_seconds")
        return {**{name: getattr(self, name) for name in names}, "isolated": self.measure is not None}
