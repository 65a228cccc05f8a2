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
    same_backend_name: str | None
    """Which backend that is: the student's fastest of those in which both were timed."""
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


class LatentSummary(Part):
    """How well the teacher's latents work in the student; ``metrics.json`` has more. null: not measured."""

    edit_correlation: float | None
    """Of the changes that edits make in student and teacher; 1: alike."""
    edit_slope: float | None
    """Strength of the student's edits over the teacher's."""
    teacher_w_l1: float | None
    """Mean absolute difference to the teacher's images, in [0, 2], of the teacher's w codes in the student."""
    mixed_l1: float | None
    """The same of codes of two latents, mixed."""
    inverted_mse: float | None
    """Mean squared error of the teacher's images, searched in the student."""
    l1: float | None
    """Mean absolute difference to the teacher's images of equal latents."""


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
    """Name of the fastest student in the benchmark, of those whose images pass the parity gate."""
    baseline: str | None
    parity: ParitySummary
    quality: dict[str, QualitySummary]
    latents: LatentSummary | None
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
