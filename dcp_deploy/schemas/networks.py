"""What the verbs answer that read and write networks: inspect, and the stages of the pipeline."""

from __future__ import annotations

from typing import Any, Literal

from ..checkpoints.checkpoint import NetworkInFile
from ..export.graph.stored import LayerStorage
from ..export.tensorrt.manifest import EngineManifest
from ..generators import GeneratorConfig
from .base import Document, Facts, Part, Sha256, Written, described_by
from .runs import RunStage, Summary
from .shipping import CheckedFacts, WebCheckedFacts

# ---- inspect ----


class Inspected(Document):
    """What is known of every file; null where the file does not say it."""

    path: str
    kind: str | None
    """"stylegan2" or "stylegan3"."""
    resolution: int | None
    """The side of square images. Otherwise the number in the name of the last block, as in ``b1024``."""
    image_size: list[int] | None
    """Height and width of the images."""
    widths: list[int] | None
    """Channels of every layer."""
    parameters: int | None
    macs: int | None
    """Multiply-accumulates per image."""
    sha256: Sha256
    licence: str
    """The terms of the weights, as the teacher's file states them; the same in every file made from it."""
    licence_source: str | None
    """What states these terms; null if they are unknown or the file does not say it."""


CheckpointFormat = Literal["native", "nvidia", "rosinality", "basicsr", "tensorflow"]
"""What ``Checkpoint.format`` can be."""


@described_by(NetworkInFile)
class InspectedNetwork(Part):
    pass


@described_by(GeneratorConfig)
class InspectedCheckpoint(Inspected):
    """A generator's weights."""

    format: CheckpointFormat
    bytes: int
    c_dim: int
    """Number of classes; 0 for an unconditional generator."""
    layout: dict[str, Any] | None
    """The schedule of layers of a StyleGAN3; null for a StyleGAN2."""
    num_ws: int
    layers: list[str]
    """Names of the layers in ``widths``."""
    networks: list[InspectedNetwork]
    """The generators in the file; empty for a native file, which has one without a name."""
    notes: list[str]
    """What the file lacked and what is used instead."""
    globals: list[str]
    """Dotted names that a pickle mentions."""
    unread: list[str]
    """Those of them whose values were not read: nothing that was needed depends on them."""
    extra: Facts


@described_by(LayerStorage)
class StoredLayer(Part):
    pass


class InspectedOnnx(Inspected):
    """An ONNX file."""

    format: Literal["onnx"]
    bytes: int
    ir_version: int
    opset: dict[str, int]
    runs_in: str
    """The oldest releases that open the file."""
    nodes: int
    inputs: dict[str, list[int | str]]
    """Dimensions; a dynamic one by its name."""
    outputs: dict[str, list[int | str]]
    weights: list[StoredLayer]
    """What each layer's constants take, the largest first."""
    metadata: dict[str, str]


class InspectedEngine(Inspected):
    """A TensorRT engine and its manifest."""

    format: Literal["engine"]
    bytes: int
    manifest: EngineManifest


class InspectedRun(Inspected):
    """A run directory of build. What is known of a network is about its student; sha256 is that of run.json."""

    format: Literal["run"]
    status: str | None
    """"running" (or killed), "finished", "failed" or "interrupted"."""
    started: str | None
    finished: str | None
    seconds: float | None
    command: str | None
    config: Facts
    stages: dict[str, RunStage]
    summary: Summary


class InspectedBundle(Inspected, CheckedFacts):
    """A bundle whose files are all as its manifest says."""

    format: Literal["bundle"]


class InspectedWebPage(Inspected, WebCheckedFacts):
    """A page for browsers whose files are all as its manifest says."""

    format: Literal["web page"]


# ---- files ----


class Source(Part):
    """The file that was converted."""

    format: CheckpointFormat
    notes: list[str]
    licence: str
    """The terms of the weights, as the new file states them."""


class Converted(Written):
    """A generator in another layout."""

    layout: Literal["native", "rosinality", "nvidia"]
    notes: list[str]
    """What the code that the layout belongs to needs to open this file."""
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
    """Share of the channels that is removed."""
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
    """Each entry: the step, the distance to the teacher, and the mean of each loss."""
    resumed_at: int
    images: Facts
    """The real images."""


class Exported(Written):
    """An ONNX file."""

    precision: str
    ir_version: int
    opset: int
    runs_in: str
    """The oldest releases of ONNX Runtime and Triton that open the file."""
    batch: list[int] | None
    """Smallest and largest batch; null for any."""
    inlined: bool
    """Whether the file has no functions."""
    teacher: str | None
    """The teacher's file, exported the same way."""


class EngineBuilt(Written):
    """An engine."""

    manifest: EngineManifest
