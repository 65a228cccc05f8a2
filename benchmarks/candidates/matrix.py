"""The matrix of candidates: every model in every backend that can run it, and why the others are skipped.

model files x backends -> Spec (plain data, so that another process can open it) -> Candidate, or Skipped
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...devices import default_threads
from ...errors import DcpDeployError, InputError, UsageError
from ...export.kinds import Kind, kind_of
from .candidate import Candidate, Skipped


@dataclass(frozen=True)
class Backend:
    """One way to run a model."""

    name: str
    """Its name for --backends, and the label in the document."""
    title: str
    """Its part of a candidate's name."""
    takes: Kind
    device: str = "cpu"
    precision: str | None = None
    """Set where it does not follow from the file."""
    graph: bool = False
    """Whether a call is one CUDA graph."""
    flavour: str | None = None
    """The flavour of the engines it runs."""


_ALL = (
    Backend("torch", "torch eager", "checkpoint"),
    Backend("torch-compile", "torch.compile", "checkpoint"),
    Backend("onnxruntime", "ONNX Runtime", "onnx"),
    Backend("onnxruntime-winograd", "ONNX Runtime, Winograd", "onnx"),
    Backend("openvino", "OpenVINO", "onnx"),
    Backend("openvino-winograd", "OpenVINO, Winograd", "onnx"),
    Backend("torch-cuda", "torch eager on GPU", "checkpoint", "cuda"),
    Backend("torch-compile-cuda", "torch.compile on GPU", "checkpoint", "cuda"),
    Backend("onnxruntime-cuda", "ONNX Runtime on GPU", "onnx", "cuda"),
    Backend("cuda-fp32", "our CUDA path, graph", "checkpoint", "cuda", "fp32", graph=True),
    Backend("cuda-fp16", "our CUDA path, graph", "checkpoint", "cuda", "fp16", graph=True),
    Backend("cuda-fp16-launches", "our CUDA path, no graph", "checkpoint", "cuda", "fp16"),
    Backend("tensorrt", "TensorRT", "engine", "cuda", flavour="tensorrt"),
    Backend("tensorrt-graph", "TensorRT, graph", "engine", "cuda", graph=True, flavour="tensorrt"),
    Backend("tensorrt-rtx", "TensorRT for RTX", "engine", "cuda", flavour="tensorrt-rtx"),
    Backend("tensorrt-rtx-graph", "TensorRT for RTX, graph", "engine", "cuda", graph=True, flavour="tensorrt-rtx"),
    Backend("bundle", "bundle", "bundle"),
)
BACKENDS = {backend.name: backend for backend in _ALL}
_NATURAL = {"checkpoint": "torch", "onnx": "onnxruntime", "bundle": "bundle"}
_MADE_BY = {"checkpoint": "", "onnx": "dcp-deploy export", "engine": "dcp-deploy engine", "bundle": "dcp-deploy bundle"}


@dataclass(frozen=True)
class Spec:
    """A candidate that is not open yet."""

    model: str
    path: str
    backend: str
    threads: int | None = None
    batch: int = 1
    seed: int = 0
    """Seed of the latents z; see :func:`.candidate.fixed_inputs`."""
    network: str | None = None
    """Which generator of a checkpoint that holds several."""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready fields; ``Spec(**...)`` reads them back."""
        return asdict(self)

    def candidate(self, run: Callable[[], object], **facts: Any) -> Candidate:
        """Return the candidate of this spec with further fields of ``Candidate``."""
        file, device = Path(self.path).name, BACKENDS[self.backend].device
        return Candidate(run, self.model, self.backend, threads=self.threads, file=file, device=device,
                         batch=self.batch, **facts)  # fmt: skip


def plan_matrix(
    files: Mapping[str, Sequence[Path]],
    *,
    backends: str = "auto",
    batches: Sequence[int] = (1,),
    threads: int | None = None,
    seed: int = 0,
    network: str | None = None,
) -> tuple[list[Spec], list[Skipped]]:
    """Return every candidate that the files allow, and those whose kind of file is missing.

    ``files``: model ("teacher", "student") -> its checkpoints, ONNX files, engines and bundles. ``backends``: "auto",
    the natural backend of each file; "all"; or names of ``BACKENDS`` separated by commas. ``network`` chooses among
    several generators of the first model's checkpoints. ``threads`` are the CPU threads of every candidate alike, by
    default :func:`~dcp_deploy.devices.default_threads`. Raises UsageError for an unknown backend, a batch below 1, or a
    network without a checkpoint, InputError for a file that cannot be read.
    """
    chosen = _chosen(backends)
    threads = default_threads() if threads is None else threads
    if not batches or min(batches) < 1:
        raise UsageError(f"batch is {min(batches, default=0)}", "Give 1 or more.")
    kinds: dict[str, list[tuple[Path, Kind]]] = {
        model: [(path, kind_of(path)) for path in paths] for model, paths in files.items()
    }
    first = next(iter(files))
    if network is not None and all(kind != "checkpoint" for _, kind in kinds[first]):
        raise UsageError(f"--network {network!r}: no checkpoint of the {first} was given", "Leave out --network.")
    specs: list[Spec] = []
    skipped: list[Skipped] = []
    for batch in batches:
        for model, model_files in kinds.items():
            for backend in chosen if backends != "auto" else _natural(model_files):
                fitting = [path for path, kind in model_files if _fits(backend, path, kind)]
                chosen_network = network if model == first and backend.takes == "checkpoint" else None
                specs += [
                    Spec(model, str(path), backend.name, threads, batch, seed, chosen_network) for path in fitting
                ]
                if not fitting and backend.takes != "bundle" and batch == batches[0]:
                    skipped.append(Skipped(f"{model}, {backend.title}", _missing(backend, model)))
    return specs, list(dict.fromkeys(skipped))


def open_matrix(
    specs: Sequence[Spec], open_one: Callable[[Spec], Candidate], *, tolerant: bool
) -> tuple[dict[str, Candidate], list[Skipped]]:
    """Open every spec; with ``tolerant``, skip those that need what this machine lacks.

    Names are unique: they include batch, precision and file where needed. The baseline of a candidate is the first one
    with its batch. Raises what ``open_one`` raises; if nothing could be opened, the first error.
    """
    made: list[tuple[Spec, Candidate]] = []
    skipped: list[Skipped] = []
    errors: list[DcpDeployError] = []
    for spec in specs:
        try:
            made.append((spec, open_one(spec)))
        except DcpDeployError as error:
            if not tolerant or isinstance(error, InputError):  # a bad file is an error on every machine
                raise
            errors.append(error)
            skipped.append(Skipped(f"{spec.model}, {BACKENDS[spec.backend].title}", error.message))
    if not made:
        raise errors[0] if errors else UsageError("no file fits the backends", "Use --backends auto or all.")
    baselines: dict[int, str] = {}
    opened = {}
    for name, (spec, candidate) in zip(_names(made), made, strict=True):
        baseline = baselines.setdefault(spec.batch, name)
        opened[name] = replace(candidate, batch=spec.batch, baseline=baseline)
    return opened, list(dict.fromkeys(skipped))


def _chosen(backends: str) -> list[Backend]:
    if backends in ("auto", "all"):
        return [backend for backend in _ALL if backend.takes != "bundle"]
    names = [name.strip() for name in backends.split(",")]
    for name in names:
        if name not in BACKENDS:
            raise UsageError(f"unknown backend {name!r}", f"Use auto, all, or some of: {', '.join(BACKENDS)}.")
    return [BACKENDS[name] for name in names]


def _natural(model_files: Sequence[tuple[Path, Kind]]) -> list[Backend]:
    """Return the natural backend of each file, without repetitions."""
    names = [_flavour(path) if kind == "engine" else _NATURAL[kind] for path, kind in model_files]
    return [BACKENDS[name] for name in dict.fromkeys(names)]


def _fits(backend: Backend, path: Path, kind: Kind) -> bool:
    return kind == backend.takes and (backend.flavour is None or _flavour(path) == backend.flavour)


def _flavour(engine: Path) -> str:
    from ...export.tensorrt.manifest import read_manifest

    return str(read_manifest(engine)["flavour"])


def _missing(backend: Backend, model: str) -> str:
    what = {"onnx": "ONNX file", "engine": f"{backend.flavour} engine"}.get(backend.takes, backend.takes)
    maker = _MADE_BY[backend.takes]
    return f"no {what} of the {model} was given" + (f" (made by {maker})" if maker else "")


def _names(made: Sequence[tuple[Spec, Candidate]]) -> list[str]:
    """Return names like ``student, ONNX Runtime, fp16, batch 8``, with batch and file only where names would repeat."""
    several = len({spec.batch for spec, _ in made}) > 1
    names = []
    for spec, candidate in made:
        precision = f", {candidate.precision}" if candidate.precision != "fp32" else ""
        batch = f", batch {spec.batch}" if several else ""
        names.append(f"{spec.model}, {BACKENDS[spec.backend].title}{precision}{batch}")
    for suffixes in ([f", {Path(spec.path).name}" for spec, _ in made], [f" ({spec.path})" for spec, _ in made]):
        counted = Counter(names)
        names = [name + end if counted[name] > 1 else name for name, end in zip(names, suffixes, strict=True)]
    return names
