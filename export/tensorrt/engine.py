"""Builds TensorRT engines from ONNX, each with a manifest: from what, by what and for which GPUs it was built.

There are two flavours. TensorRT for RTX (`tensorrt_rtx`) builds ahead of time on any machine, without a GPU, one file
for several targets. TensorRT proper (`tensorrt`, from 10.13 on except 10.14, and 11.x) builds on the target GPU and
supports those that RTX does not (sm90, sm100, ...). It is called through Polygraphy's loaders, and this project has not
run it on a GPU yet.
"""

from __future__ import annotations

import json
import os
import shlex
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ...errors import InputError, MissingCapabilityError, UsageError
from ...files import atomic_path, sha256_file, write_json
from ...version import __version__
from ..graph.bfloat16 import CONVOLUTIONS, narrowed
from ..graph.file import read_onnx, read_whole_onnx
from ..graph.stored import STORED, restored
from ..integrity import first_problem
from . import targets as gpus
from .manifest import Engine, EngineSource, manifest_path, onnx_sha256
from .targets import Flavour, choose_flavour, import_flavour, parse_targets

Batch = tuple[int, int, int]
Shapes = dict[str, dict[str, list[int]]]  # input -> min, opt, max -> shape


@dataclass(frozen=True)
class EngineOptions:
    """Builder options. All are off by default because they cost speed, except ``plugins``.

    ``version_compatible``: later versions of the same major TensorRT can load the engine. ``hardware_compatible``:
    every GPU from Ampere on can. ``refit``: its weights can be replaced. ``timing_cache``: a file with the measured
    times of kernels, read and written, which makes the next similar build faster. ``plugins``: our own CUDA kernels
    (TensorRT only; TensorRT for RTX has no plugins and fuses the function bodies instead).
    """

    version_compatible: bool = False
    hardware_compatible: bool = False
    refit: bool = False
    timing_cache: str | None = None
    plugins: bool = True

    def flags(self) -> list[str]:
        """Return the options as flags of ``dcp-deploy engine``."""
        named = ("version_compatible", "hardware_compatible", "refit")
        found = [f"--{name.replace('_', '-')}" for name in named if getattr(self, name)]
        found += ["--timing-cache", self.timing_cache] if self.timing_cache else []
        return found if self.plugins else [*found, "--no-plugins"]


DEFAULTS = EngineOptions()
LARGEST_INSIDE = 1024  # bytes of a weight in the copy that is parsed; larger ones lie beside it
EXPORT = "Export it again with dcp-deploy export."


@dataclass(frozen=True)
class BuiltEngine:
    """A built engine: its bytes, the builder's flags that were on, and how the plugins in it were compiled."""

    data: bytes
    flags: tuple[str, ...]
    plugins: dict[str, Any] | None = None


def build_engine(
    onnx: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    target: str = "auto",
    flavour: Flavour = "auto",
    batch: Batch = (1, 8, 64),
    options: EngineOptions = DEFAULTS,
) -> Engine:
    """Build ``path`` (``.engine``) from an ONNX file, with its manifest ``.json`` beside it.

    ``target``: compute capabilities or product names, separated by commas ("sm89,sm120", "RTX 4090", "L4"); "auto" is
    the GPU of this machine. ``batch``: smallest, optimal and largest batch. ``flavour`` "auto" is TensorRT for RTX
    if it supports all targets. The precision is that of the graph (both flavours are strongly typed). The bytes of an
    engine differ from build to build; ``onnx_sha256`` in its manifest shows whether it is up to date.

    Raises UsageError (target, batch or options), InputError (ONNX file), MissingCapabilityError (package, GPU, or a
    target for which the flavour cannot build this graph).
    """
    onnx, path = Path(onnx), Path(path)
    model = read_onnx(onnx)  # first: with a file of another kind, the target does not matter
    targets = parse_targets(target)
    chosen = choose_flavour(flavour, targets)
    if len(batch) != 3 or not 1 <= batch[0] <= batch[1] <= batch[2]:
        raise UsageError(f"batch is {tuple(batch)}", "Give smallest, optimal and largest batch, for instance 1,8,64.")
    if path.suffix == ".json":
        raise UsageError(f"{path} is the name of the manifest", "Name the engine *.engine.")
    profile, source = _profile(onnx, model, batch), _source(onnx, model)
    command = ["dcp-deploy", "engine", str(onnx), "--target", ",".join(targets), "--flavour", chosen]
    command += ["--batch", ",".join(map(str, batch)), *options.flags(), "--out", str(path)]
    start = time.perf_counter()
    if chosen == "tensorrt-rtx":
        with _as_parsed(onnx, ("Conv",)) as parsed:  # it has no transposed convolution in bfloat16
            built = _build_rtx(onnx, parsed, targets, profile, options)
    else:
        with _as_parsed(onnx, CONVOLUTIONS) as parsed:
            built = _build_tensorrt(onnx, parsed, model, targets, profile, options, shlex.join(command))
    seconds = time.perf_counter() - start
    with atomic_path(path) as temporary:
        temporary.write_bytes(built.data)
        digest = sha256_file(temporary)
    manifest: dict[str, Any] = {
        "schema": 1,
        "engine_sha256": digest,
        "size_bytes": len(built.data),
        **source,
        "flavour": chosen,
        "flavour_version": str(import_flavour(chosen).__version__),
        "targets": list(targets),
        "precision": weight_types(model),
        "profile": profile,
        "options": asdict(options),
        "build_flags": list(built.flags),
        "plugins": built.plugins,
        "build_seconds": round(seconds, 3),
        "tool": f"dcp-deploy {__version__}",
        "rebuild": shlex.join(command),
    }
    write_json(manifest_path(path), manifest)
    return Engine(path, manifest)


def _source(path: Path, model: Any) -> dict[str, Any]:
    """Return the manifest's entries about the ONNX file. InputError if its metadata has them in another form."""
    facts = {entry.key: entry.value for entry in model.metadata_props}
    try:
        source = {
            "onnx": path.name,
            "onnx_sha256": onnx_sha256(path),
            **{key: facts.get(key) for key in ("kind", "licence", "licence_source")},
            **{key: json.loads(facts.get(key, "null")) for key in ("resolution", "widths", "config")},
        }
        EngineSource.model_validate(source)
    except (ValueError, RecursionError) as error:
        problem = first_problem(error) if isinstance(error, ValidationError) else str(error)
        raise InputError(f"the metadata of {path} is not that of an exported generator: {problem}", EXPORT) from error
    return source


def _profile(path: Path, model: Any, batch: Batch) -> Shapes:
    """Return the optimisation profile: every input with the smallest, optimal and largest batch."""
    profile: Shapes = {}
    for value in model.graph.input:
        shape = value.type.tensor_type.shape.dim
        if not shape or shape[0].HasField("dim_value") or not all(dim.HasField("dim_value") for dim in shape[1:]):
            raise InputError(
                f"input {value.name!r} of {path} does not have a dynamic batch and other sizes fixed",
                "Export it without --batch, or with two numbers.",
            )
        sizes = [dim.dim_value for dim in shape[1:]]
        profile[value.name] = {key: [n, *sizes] for key, n in zip(("min", "opt", "max"), batch, strict=True)}
    return profile


def weight_types(model: Any) -> str:
    """Return the types that an ONNX model computes with: "fp32", "fp16+fp32", "fp32+int8", ..."""
    import onnx

    kinds = {
        onnx.TensorProto.FLOAT: "fp32",
        onnx.TensorProto.FLOAT16: "fp16",
        onnx.TensorProto.BFLOAT16: "bf16",
        onnx.TensorProto.INT8: "int8",
    }
    used = [tensor for tensor in model.graph.initializer if not tensor.name.endswith(STORED)]
    found = {kinds[tensor.data_type] for tensor in used if tensor.data_type in kinds}
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        found.add("int8")
    return "+".join(sorted(found))


@contextmanager
def _as_parsed(path: Path, kinds: tuple[str, ...]) -> Iterator[Path]:
    """Yield the file that the parser reads: ``path``, or a copy of it.

    The copy has bfloat16 convolutions of ``kinds`` without casts, and weights that are only stored in int8 or float16
    as float32 constants. By path, because weights may be in a file beside it.
    """
    import onnx

    model = read_whole_onnx(path)
    if not (narrowed(model, kinds) | restored(model)):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        onnx.save(model, copy, save_as_external_data=True, size_threshold=LARGEST_INSIDE)
        yield copy


# ---- TensorRT for RTX: ahead of time, no GPU involved ----


def _build_rtx(
    path: Path, source: Path, targets: Sequence[str], profile: Shapes, options: EngineOptions
) -> BuiltEngine:
    """Build from ``source``, the file ``path`` as :func:`_as_parsed` gives it."""
    trt = import_flavour("tensorrt-rtx")
    _refuse_for_rtx(options)
    lines: list[str] = []

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]  # known at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                lines.append(text)

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(os.fspath(source)):  # by path, because weights may be in a file beside it
        lines.extend(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise InputError(f"TensorRT for RTX cannot read {path}: {_joined(lines)}")
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(targets)
    for index, sm in enumerate(targets):
        config.set_compute_capability(getattr(trt.ComputeCapability, sm.upper()), index)
    shapes = builder.create_optimization_profile()
    for name, limits in profile.items():
        shapes.set_shape(name, limits["min"], limits["opt"], limits["max"])
    config.add_optimization_profile(shapes)
    if options.refit:
        config.set_flag(trt.BuilderFlag.REFIT)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        served = ", ".join(targets)
        raise MissingCapabilityError(
            f"TensorRT for RTX cannot build {path} for {served}: {_joined(lines)}", _rtx_remedy(targets, options)
        )
    flags = trt.BuilderFlag.__members__.items()
    return BuiltEngine(bytes(plan), tuple(sorted(name for name, flag in flags if config.get_flag(flag))))


def _refuse_for_rtx(options: EngineOptions) -> None:
    """Raise UsageError for an option that TensorRT for RTX does not have."""
    unsupported = {
        "--version-compatible": options.version_compatible,  # the flag exists, but not the lean runtime it needs
        "--hardware-compatible": options.hardware_compatible,  # its engines list their targets
        "--timing-cache": bool(options.timing_cache),  # it measures nothing: kernels are chosen on the target
    }
    for flag in (flag for flag, is_set in unsupported.items() if is_set):
        raise UsageError(f"TensorRT for RTX has nothing like {flag}", f"Leave {flag} out, or add --flavour tensorrt.")


def _rtx_remedy(targets: Sequence[str], options: EngineOptions) -> str:
    """Return the remedy for what version 1.7 is known to refuse, or ""."""
    if options.refit and gpus.present_gpu() is None:
        return "Build it on a machine with an NVIDIA GPU, where TensorRT for RTX compiles refittable engines."
    if "sm75" in targets:
        return "Leave sm75 out: TensorRT for RTX 1.7 has no float32 matrix product for it."
    return ""


# ---- TensorRT: on the target GPU, through Polygraphy ----


def _build_tensorrt(
    path: Path, source: Path, model: Any, targets: Sequence[str], profile: Shapes, options: EngineOptions, command: str
) -> BuiltEngine:
    """Build with TensorRT, from ``source``. TF32 is on, as is TensorRT's default (Polygraphy's is off)."""
    gpu = gpus.present_gpu()
    if gpu is None or tuple(targets) != (gpu,):
        raise MissingCapabilityError(
            f"TensorRT builds on the GPU it builds for, {', '.join(targets)}; this machine has {gpu or 'none'}",
            f"Run on that machine: pip install 'dcp-deploy[gpu]' && {command}",
        )
    trt = import_flavour("tensorrt")
    try:
        from polygraphy.backend.trt import CreateConfig, EngineBytesFromNetwork, NetworkFromOnnxPath, Profile
        from polygraphy.exception import PolygraphyException
    except ImportError as error:
        message = "building with TensorRT needs the package polygraphy, which is not installed"
        raise MissingCapabilityError(message, "Install it: pip install 'dcp-deploy[gpu]'") from error
    shapes = Profile()
    for name, limits in profile.items():
        shapes.add(name, limits["min"], limits["opt"], limits["max"])
    plugins = _use_plugins(model, gpu, options)
    network = NetworkFromOnnxPath(os.fspath(source), strongly_typed=True)
    level = trt.HardwareCompatibilityLevel
    config = CreateConfig(
        profiles=[shapes],
        tf32=True,
        refittable=options.refit,
        version_compatible=options.version_compatible,
        hardware_compatibility_level=level.AMPERE_PLUS if options.hardware_compatible else level.NONE,
        load_timing_cache=options.timing_cache,
    )
    try:
        plan = EngineBytesFromNetwork(network, config=config, save_timing_cache=options.timing_cache)()
    except PolygraphyException as error:
        remedy = "Add --no-plugins, which uses the function bodies in the file instead." if plugins else ""
        raise InputError(f"TensorRT cannot build {path}: {error}", remedy) from error
    chosen = {"REFIT": options.refit, "TF32": True, "VERSION_COMPATIBLE": options.version_compatible}
    return BuiltEngine(bytes(plan), tuple(name for name, on in chosen.items() if on), plugins)


def _use_plugins(model: Any, gpu: str, options: EngineOptions) -> dict[str, Any] | None:
    """Register our kernels, so that the parser uses them in place of the function bodies.

    Returns None if plugins are disabled or the model uses none. Raises UsageError if they are disabled but already
    registered, which cannot be undone in a process.
    """
    from . import plugins

    if not any(node.domain == plugins.NAMESPACE for node in model.graph.node):
        return None
    if not options.plugins:
        if plugins.is_registered():
            raise UsageError("this process has registered the plugins for an earlier engine", "Use a new process.")
        return None
    return plugins.register(80 if options.hardware_compatible else int(gpu.removeprefix("sm")))


def _joined(lines: Sequence[str]) -> str:
    return " | ".join(dict.fromkeys(line.strip() for line in lines)) or "no reason given"
