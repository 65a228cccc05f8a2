"""What the harness times: a function without arguments, and what is known of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..machine.roofline import Work


@dataclass(frozen=True)
class Phases:
    """Milliseconds of one call's parts on the device, by its own events."""

    copy_in_ms: float
    compute_ms: float
    copy_out_ms: float
    enqueue_ms: float
    """How long the host took to hand the computing over."""

    @property
    def enqueue_bound(self) -> bool:
        """Whether the device mostly waited for the host's launches: both took as long."""
        return self.enqueue_ms >= 0.9 * self.compute_ms


@dataclass(frozen=True)
class ColdStart:
    """From nothing to the first images, in a process of its own. Milliseconds."""

    start_ms: float
    """Until the interpreter ran."""
    load_ms: float
    """Importing, reading the file, preparing to run it."""
    first_ms: float
    """The first call."""

    @property
    def total_ms(self) -> float:
        """All of it."""
        return self.start_ms + self.load_ms + self.first_ms


@dataclass(frozen=True)
class Memory:
    """Of a process that ran one candidate, in bytes; None: not measured."""

    host_bytes: int | None
    """Resident memory at its highest: interpreter and libraries included."""
    device_bytes: int | None
    """Of the GPU after the first call, beyond what was in use before the candidate was loaded."""


@dataclass(frozen=True)
class Skipped:
    """A candidate that cannot run here."""

    name: str
    reason: str


@dataclass(frozen=True)
class Candidate:
    """Something to time, and what to write beside its figures."""

    run: Callable[[], object]
    """One call: inputs fixed, images on the host when it returns."""
    model: str
    backend: str
    precision: str = "fp32"
    threads: int | None = None
    file_bytes: int | None = None
    file: str | None = None
    device: str = "cpu"
    build_seconds: float | None = None
    """What making the file took, where it says so."""
    batch: int | None = None
    """Images a call; None: what the run says."""
    baseline: str | None = None
    """The candidate that its speedup is over; None: the run's."""
    work: Work | None = None
    """Of one call."""
    cold_start: ColdStart | None = None
    measure: Callable[[], float] | None = None
    """One call timed by the candidate itself, in milliseconds: one in another process."""
    phases: Callable[[], Phases] | None = None
    """One call with its parts told apart, where the device can."""
    memory: Callable[[], Memory] | None = None
    """Asked after the last call."""

    def __call__(self) -> object:
        return self.run()

    def labels(self) -> dict[str, Any]:
        """What it is."""
        return {
            "model": self.model,
            "backend": self.backend,
            "precision": self.precision,
            "threads": self.threads,
            "file_bytes": self.file_bytes,
            "file": self.file,
            "device": self.device,
            "build_seconds": self.build_seconds,
            "isolated": self.measure is not None,
        }


Inputs = tuple[Any, Any, Any]


def fixed_inputs(z_dim: int, c_dim: int, batch: int, seed: int) -> Inputs:
    """z [batch, z_dim] normal from ``seed``, psi 1, classes in turn; float32, c None when unconditional."""
    z = np.random.default_rng(seed).standard_normal((batch, z_dim)).astype(np.float32)
    psi = np.ones(batch, np.float32)
    return z, psi, np.eye(c_dim, dtype=np.float32)[np.arange(batch) % c_dim] if c_dim else None
