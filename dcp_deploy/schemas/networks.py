"""What the verbs answer that read and write networks, and ``inspect``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import JsonValue

from .base import Document, Facts, Part, Sha256, Written

# ---- inspect ----


class Inspected(Document):
    """Of every file; null where it does not tell."""

    path: str
    kind: str | None
    """"stylegan2" or "stylegan3"."""
    resolution: int | None
    widths: list[int] | None
    """Channels of every layer."""
    parameters: int | None
    macs: int | None
    """Multiply-accumulates per image."""
    sha256: Sha256
    licence: str
    """The terms of the weights, as far as the file tells."""


class InspectedCheckpoint(Inspected):
    """A generator's weights."""

    format: Literal["native", "nvidia", "rosinality", "tensorflow"]
    bytes: int
    z_dim: int
    w_dim: int
    c_dim: int
    """Classes; 0 for an unconditional generator."""
    mapping_layers: int
    mapping_lr_multiplier: float
    conv_clamp: float | None
    num_fp16_res: int
    layout: dict[str, Any] | None
    """Of a StyleGAN3."""
    num_ws: int
    layers: list[str]
    """Names of ``widths``."""
    notes: list[str]
    """What the file lacked and what stands in its place."""
    globals: list[str]
    """Dotted names that a pickle mentions."""
    extra: Facts


class InspectedOnnx(Inspected):
    """An ONNX file."""

    format: Literal["onnx"]
    bytes: int
    opset: dict[str, int]
    nodes: int
    inputs: dict[str, list[int | str]]
    """Dimensions; a dynamic one by its name."""
    outputs: dict[str, list[int | str]]
    metadata: dict[str, str]


class InspectedEngine(Inspected):
    """A TensorRT engine and its manifest."""

    format: Literal["engine"]
    bytes: int
    manifest: Facts


class InspectedBundle(Inspected):
    """A bundle whose files are all as its manifest says."""

    format: Literal["bundle"]
    name: str
    tool: str
    models: dict[str, Facts]
    engines: list[Facts]
    sizing: Facts
    provenance: Facts
    file_count: int
    file_bytes: int


# ---- files ----


class Source(Part):
    """What a converted file was."""

    format: str
    notes: list[str]
    licence: str | None


class Converted(Written):
    """A native file."""

    source: Source


class Scored(Written):
    """Channel scores."""

    scoring: Facts
    """The settings that define them, and how far two halves of the latents agree ("stability")."""


class Costs(Part):
    """A network's widths and what they cost; MACs are per image."""

    widths: list[int]
    parameters: int
    macs: int


class Plan(Part):
    """How many channels stay in every layer."""

    ratio: float
    """Share of the channels that goes."""
    align: int
    target: str | None
    """The budget that decided the widths, such as "macs 0.09"; null for the same ratio everywhere."""
    teacher: Costs
    student: Costs


class Pruned(Written):
    """A pruned generator."""

    plan: Plan


class Latency(Part):
    """Predicted milliseconds of one image in torch on the chosen device."""

    teacher: float
    student: float


class PrunePlanned(Document, Plan):
    """prune --dry-run."""

    latency_ms: Latency


class Distilled(Written):
    """A trained student."""

    history: list[dict[str, float]]
    """Per entry the step, the distance to the teacher, and the mean of each loss."""
    resumed_at: int
    images: Facts
    """What the real images were."""


class Exported(Written):
    """An ONNX file."""

    precision: str
    teacher: str | None
    """The teacher's file, exported the same way."""


class Profile(Part):
    """Shapes of one input."""

    min: list[int]
    opt: list[int]
    max: list[int]


class Manifest(Document):
    """What an engine was built from, by what and for which GPUs; the file beside it."""

    engine_sha256: Sha256
    size_bytes: int
    onnx: str
    onnx_sha256: Sha256
    kind: str | None
    resolution: int | None
    widths: list[int] | None
    config: Facts | None
    flavour: Literal["tensorrt-rtx", "tensorrt"]
    flavour_version: str
    targets: list[str]
    precision: str
    profile: dict[str, Profile]
    options: Facts
    build_flags: list[str]
    plugins: JsonValue
    """What the plugins in it were compiled by; null without any."""
    build_seconds: float
    tool: str
    rebuild: str
    """The command that builds it again."""


class EngineBuilt(Written):
    """An engine."""

    manifest: Manifest
