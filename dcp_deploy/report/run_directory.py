"""Read the files of a run directory. Only ``run.json`` is required, and no file is trusted.

The records below hold the fields that the report shows. Unknown fields are ignored and missing ones are None, so that a
report can be written at any stage of a build and by an older version. A malformed file is a CorruptFileError.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from ..errors import CorruptFileError, InputError
from ..files import RUN_FILE
from ..gates import QUALITY
from .latents import Latents
from .records import LENIENT, Count, Json, Measure, Milliseconds

MODELS = ("teacher", "pruned", "student")
READABLE = (
    "*.onnx", "*.safetensors", "engines/*.engine", "*.json", "config.toml", "*.png", "grids/*.png", "web/index.html",
)  # fmt: skip


class Record(BaseModel):
    """Base of the records below."""

    model_config = LENIENT


class Tool(Record):
    """The program that wrote the run."""

    name: str = "dcp-deploy"
    version: str | None = None


class Network(Record):
    """One generator of the run. ``bytes`` is the size of its safetensors file, ``macs`` counts one image."""

    kind: str | None = None
    resolution: int | None = None
    image_size: tuple[int, int] | None = None
    widths: list[int] = []
    layers: list[str] = []
    """Name of each entry of ``widths``."""
    parameters: Count | None = None
    macs: Annotated[Count, Field(gt=0)] | None = None
    bytes: Count | None = None


class Stage(Record):
    """One step of the pipeline."""

    status: str = "pending"
    reused: bool = False
    reason: str | None = None
    seconds: float | None = None


class Run(Record):
    """``run.json``."""

    schema_version: Literal[1] = Field(1, alias="schema")
    tool: Tool = Tool()
    command: str | None = None
    status: str | None = None
    started: str | None = None
    finished: str | None = None
    seconds: float | None = None
    config: dict[str, Json] = {}
    effort: dict[str, Json] = {}
    environment: dict[str, Json] = {}
    images: dict[str, Json] = {}
    teacher: dict[str, Json] = {}
    networks: dict[str, Network] = {}
    stages: dict[str, Stage] = {}


class Measurable(Record):
    """A document that may hold only the reason why nothing was measured."""

    schema_version: Literal[1] = Field(1, alias="schema")
    reason: str | None = None


class Mode(Record):
    """How often one value of a factor appears: its share of data and samples, and the samples' over the data's."""

    factor: str
    value: str
    data: float | None = None
    samples: float | None = None
    ratio: float | None = None


class Quality(Record):
    """Quality of one generator's samples. ``rare``: factor -> its frequency over the true one."""

    fid: Measure | None = None
    precision: Measure | None = None
    recall: Measure | None = None
    kid: Measure | None = None
    density: Measure | None = None
    coverage: Measure | None = None
    mode_coverage: Measure | None = None
    frequency_error: Measure | None = None
    rare: dict[str, float | None] = {}
    modes: list[Mode] = []
    samples: int | None = None
    seed: int | None = None
    psi: float | None = None
    features: str | None = None


class Samples(Record):
    """What the pictures in ``grids/`` show, row by row. The defaults are what versions drew that did not note it."""

    seeds: Annotated[list[int], Field(min_length=1)] = list(range(16))
    psi: float = 1.0
    columns: Annotated[int, Field(ge=1)] = 8


class Metrics(Measurable):
    """``metrics.json``."""

    models: dict[str, Quality] = {}
    latents: Latents | None = None
    grids: Samples = Samples()


class Check(Record):
    """One check of the gate: ``value``, None if not finite, must be "at most" or "at least" ``limit``."""

    name: str
    value: float | None = None
    limit: float | None = None
    bound: str = "at most"
    passed: bool


class Layers(Record):
    """The comparison layer by layer, in a sentence."""

    verdict: str = ""


class Pair(Record):
    """Parity of one exported file with its network; the fields are those of ``ParityReport``."""

    passed: bool
    checks: list[Check] = []
    images: int | None = None
    psis: list[float] = []
    max_abs: float | None = None
    mean_abs: float | None = None
    max_steps: float | None = None
    mean_steps: float | None = None
    differing: float | None = None
    psnr_db: float | None = None
    p999_abs: float | None = None
    least_ssim: float | None = None
    layers: Layers | None = None


class Parity(Measurable):
    """``parity.json``."""

    passed: bool | None = None
    pairs: dict[str, Pair] = {}


class Speedup(Record):
    """Ratio of medians with its interval."""

    value: Annotated[Measure, Field(gt=0)]
    low: Measure | None = None
    high: Measure | None = None


class Steadiness(Record):
    """Agreement of the two halves of a run."""

    verdict: str | None = None


class BenchRow(Record):
    """One candidate. Latencies are in milliseconds."""

    name: str
    labels: dict[str, Json] = {}
    p50_ms: Milliseconds
    p90_ms: Milliseconds | None = None
    p99_ms: Milliseconds | None = None
    p99_indicative: bool = False
    mean_ms: float | None = None
    std_ms: float | None = None
    images_per_second: float | None = None
    speedup: Speedup | None = None
    stability: Steadiness = Steadiness()
    samples_ms: list[Milliseconds] = []

    def label(self, key: str) -> str:
        """Return a label as text, empty if absent."""
        return str(self.labels.get(key) or "")

    @property
    def way(self) -> str:
        """How the model ran, as the name says it: "ONNX Runtime" of "student, ONNX Runtime"."""
        return self.name.partition(", ")[2]


class Tried(Record):
    """A candidate whose images were compared with the reference."""

    name: str
    passed: bool


class Fastest(Record):
    """Candidates from the fastest on, up to the first whose images passed."""

    tried: list[Tried] = []


class Bench(Measurable):
    """``bench.json``."""

    baseline: str | None = None
    batch: int = 1
    rows: list[BenchRow] = []
    notes: list[str] = []
    unstable_because: list[str] | None = None
    """None in files of older versions."""
    environment: dict[str, Json] = {}
    method: dict[str, Json] = {}
    fastest: Fastest | None = None


class GateOutcome(Record):
    """One requirement, and the outcome as a sentence."""

    requirement: str
    metric: str | None = None
    value: float | None = None
    limit: float | None = None
    passed: bool
    text: str


class Gates(Record):
    """``gates.json``."""

    schema_version: Literal[1] = Field(1, alias="schema")
    passed: bool
    requirements: list[GateOutcome] = []


@dataclass(frozen=True)
class Grid:
    """A checked PNG and its size in pixels."""

    png: bytes
    width: int
    height: int


@dataclass(frozen=True)
class RunDirectory:
    """Everything that the report shows."""

    run: Run
    metrics: Metrics | None = None
    parity: Parity | None = None
    bench: Bench | None = None
    gates: Gates | None = None
    history: tuple[dict[str, Json], ...] = ()
    scores: tuple[NDArray[np.float64], ...] = ()
    engines: dict[str, dict[str, Json]] = field(default_factory=dict)
    grids: dict[str, Grid] = field(default_factory=dict)
    file_bytes: dict[str, int] = field(default_factory=dict)
    """Sizes of the models in the directory: file name -> bytes."""
    files: dict[str, int] = field(default_factory=dict)
    """Sizes of all files that a reader may want to open: path within the directory -> bytes."""

    @property
    def samples(self) -> Samples:
        """What the pictures in ``grids/`` show."""
        return self.metrics.grids if self.metrics else Samples()

    @property
    def bench_rows(self) -> list[BenchRow]:
        """Rows of the benchmark; empty without a benchmark."""
        return self.bench.rows if self.bench else []

    def quality(self, model: str) -> Quality:
        """Return the quality of one model; every field is None if it was not measured."""
        return (self.metrics.models if self.metrics else {}).get(model) or Quality()

    def figures(self, model: str) -> dict[str, float | None]:
        """Return the figures of one model that requirements may name, without the speed-up."""
        found = {name: getattr(self.quality(model), name) for name in QUALITY}
        latents = self.metrics.latents if self.metrics and model == "student" else None
        return found | (latents or Latents()).figures()

    def widths(self) -> tuple[list[int], list[int]]:
        """Return the widths of teacher and student, both empty unless they have the same layers."""
        teacher, student = (self.run.networks.get(name, Network()).widths for name in ("teacher", "student"))
        return (teacher, student) if len(teacher) == len(student) else ([], [])

    def layer_names(self, count: int) -> list[str]:
        """Return the names of the teacher's prunable layers; numbers if the run does not name them."""
        names = self.run.networks.get("teacher", Network()).layers
        return names if len(names) == count else [f"layer {i}" for i in range(count)]


def read_run_directory(folder: Path) -> RunDirectory:
    """Read a run directory. InputError without a ``run.json``, CorruptFileError for a malformed file."""
    run = _read(folder / RUN_FILE, Run)
    if run is None:
        raise InputError(f"{folder} holds no {RUN_FILE}", "Give a folder that `dcp-deploy build` wrote.")
    manifests = sorted((folder / "engines").glob("*.json"))
    return RunDirectory(
        run=run,
        metrics=_read(folder / "metrics.json", Metrics),
        parity=_read(folder / "parity.json", Parity),
        bench=_read(folder / "bench.json", Bench),
        gates=_read(folder / "gates.json", Gates),
        history=tuple(_read(folder / "history.json", list[dict[str, Json]]) or ()),
        scores=_read_scores(folder / "scores.safetensors"),
        engines={path.stem: _read(path, dict[str, Json]) or {} for path in manifests},
        grids={path.stem: _read_grid(path) for path in sorted((folder / "grids").glob("*.png"))},
        file_bytes={p.name: p.stat().st_size for p in folder.glob("*") if p.suffix in (".onnx", ".safetensors")},
        files={
            path.relative_to(folder).as_posix(): path.stat().st_size
            for pattern in READABLE
            for path in sorted(folder.glob(pattern))
            if path.is_file()
        },
    )


def read_run(content: bytes) -> Run:
    """Return the record in the content of ``run.json``. Raises ValueError for any other content."""
    return Run.model_validate_json(content)


T = TypeVar("T")


def _read(path: Path, kind: type[T]) -> T | None:
    """Read a file as ``kind``; None if it does not exist."""
    if not path.is_file():
        return None
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise _corrupt(path, f"{where}: {first['msg']}") from error


def _read_scores(path: Path) -> tuple[NDArray[np.float64], ...]:
    """Return one finite, non-empty vector per layer, ordered by the numbers in the tensors' names."""
    if not path.is_file():
        return ()
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(path.read_bytes())
    except (SafetensorError, ValueError, KeyError) as error:
        raise _corrupt(path, str(error)) from error
    layers = []
    for name in sorted(tensors, key=_by_number):
        layer = tensors[name].astype(np.float64)
        if layer.ndim != 1 or layer.size == 0 or not np.isfinite(layer).all():
            raise _corrupt(path, f"tensor {name!r} is not a vector of finite scores")
        layers.append(layer)
    return tuple(layers)


def _by_number(name: str) -> list[Any]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _read_grid(path: Path) -> Grid:
    from PIL import Image

    png = path.read_bytes()
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            size = image.size
            image.verify()
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            image.load()  # checksums may be right and pixels missing
    # Pillow raises SyntaxError for a damaged PNG chunk.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _corrupt(path, str(error)) from error
    return Grid(png, *size)


def _corrupt(path: Path, reason: str) -> CorruptFileError:
    return CorruptFileError(
        f"{path} cannot be read: {reason}", f"Delete it and run the build again, which writes a new {path.name}."
    )
