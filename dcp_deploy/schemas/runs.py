"""What the files of a run directory of ``build`` say, as ``build`` and ``inspect`` answer it."""

from __future__ import annotations

from .base import Facts, Part


class Speedup(Part):
    """Median latency of the baseline over that of the fastest student, with its interval."""

    value: float
    low: float | None
    high: float | None
    same_backend: float | None
    """Teacher over student on the same backend: what compression alone gained."""
    unstable_because: list[str]
    """Reasons not to trust the figure; empty for a good run."""


class ParitySummary(Part):
    """Whether the exported files generate the same images as the networks."""

    passed: bool | None
    difference: str
    """The student's largest difference, in words."""


class QualitySummary(Part):
    """Quality of one network; ``metrics.json`` has more."""

    fid: float | None
    mode_coverage: float | None


class NetworkSummary(Part):
    """Size of one network; MACs are per image, bytes those of its safetensors file."""

    parameters: int | None
    macs: int | None
    bytes: int | None


class GateOutcome(Part):
    """One requirement."""

    requirement: str
    passed: bool
    text: str
    """The outcome as a sentence."""


class GateSummary(Part):
    """Whether the student meets the requirements; ``gates.json`` has the figures."""

    passed: bool
    requirements: list[GateOutcome]


class Summary(Part):
    """The figures of the run. null: not measured."""

    gates: GateSummary | None

    speedup: Speedup | None
    fastest: str | None
    """Name of the fastest student in the benchmark."""
    baseline: str | None
    parity: ParitySummary
    quality: dict[str, QualitySummary]
    images: Facts | None
    """The real images."""
    not_measured: str | None
    """Why quality was not measured."""
    networks: dict[str, NetworkSummary]
    files: dict[str, int]
    """Bytes of each model's file."""
    engine: str | None
    no_engine: str | None
    """Why no engine was built."""
    report: str


class RunStage(Part):
    """One stage of a build."""

    status: str
    """"pending", "running", "done", "skipped", "failed" or "interrupted"."""
    reused: bool
    reason: str | None
    """Why it ran or was reused, or how it ended."""
    seconds: float | None
