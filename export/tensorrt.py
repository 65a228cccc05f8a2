"""ONNX to TensorRT engines, each with a manifest that says what it was built from, by what, and for which GPUs.

Two flavours. TensorRT for RTX (`tensorrt_rtx`) builds ahead of time on any machine, without a GPU, one file for several
targets. TensorRT proper (`tensorrt`) builds on the target GPU and reaches those that RTX does not (sm90, sm100, ...);
that path goes through Polygraphy's loaders and has not been run on TensorRT hardware by this project yet.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from .. import __version__
from ..errors import CorruptFileError, InputError, MissingCapabilityError, StaleArtifactError, UsageError
from ..files import atomic_path, read_json, sha256_file, write_json

Flavour = Literal["auto", "tensorrt-rtx", "tensorrt"]
Shapes = dict[str, dict[str, list[int]]]  # input -> min, opt, max -> shape

FLAVOURS = {"tensorrt-rtx": ("tensorrt_rtx", "rtx"), "tensorrt": ("tensorrt", "gpu")}  # module, extra of this package
_COMPARED = {"engine_sha256", "onnx_sha256", "flavour", "flavour_version", "targets", "rebuild"}  # by check_engine
RTX_TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")

# Compute capabilities by NVIDIA's product names (developer.nvidia.com/cuda-gpus).
PRODUCTS: dict[str, tuple[str, ...]] = {
    "sm75": ("T4", "RTX 2060", "RTX 2070", "RTX 2080", "RTX 2080 Ti", "GTX 1660", "Quadro RTX 6000"),
    "sm80": ("A100", "A30"),
    "sm86": ("A10", "A16", "A2", "A40", "RTX 3060", "RTX 3070", "RTX 3080", "RTX 3090", "RTX A4000", "RTX A6000"),
    "sm89": ("L4", "L40", "L40S", "RTX 4060", "RTX 4070", "RTX 4080", "RTX 4090", "RTX 6000 Ada"),
    "sm90": ("H100", "H200", "GH200"),
    "sm100": ("B200", "GB200"),
    "sm103": ("B300", "GB300"),
    "sm120": ("RTX 5060", "RTX 5070", "RTX 5080", "RTX 5090", "RTX PRO 6000"),
    "sm121": ("GB10", "DGX Spark"),
}


@dataclass(frozen=True)
class Engine:
    """A TensorRT engine file and its manifest, the content of ``<name>.json`` beside ``<name>.engine``.

    The manifest says what the engine was built from (``onnx``, ``onnx_sha256``, ``kind``, ``resolution``, ``widths``,
    ``config``),
    by what (``flavour``, ``flavour_version``, ``build_flags``, ``tool``, ``build_seconds``), for what (``targets``,
    ``precision``, ``profile``: min, opt and max shape of every input), and what came out (``engine_sha256``,
    ``size_bytes``). ``rebuild`` is the command that makes it again.
    """

    path: Path
    manifest: dict[str, Any]


def build_engine(
    onnx: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    target: str = "auto",
    flavour: Flavour = "auto",
    batch: tuple[int, int, int] = (1, 8, 64),
) -> Engine:
    """Build ``path`` (``.engine``) from an ONNX file, with its manifest ``.json`` beside it.

    ``target``: compute capabilities or product names, separated by commas ("sm89,sm120", "RTX 4090", "L4"); "auto" is
    the GPU of this machine. ``batch``: smallest, best-served and largest batch. ``flavour`` "auto" takes TensorRT for
    RTX when it serves all targets. The precision is that of the graph (both flavours are strongly typed). The bytes of
    an engine differ from build to build; its manifest's ``onnx_sha256`` says whether it is up to date.

    Raises UsageError (target or batch), InputError (ONNX file), MissingCapabilityError (package, GPU, or a target that
    the flavour cannot build this graph for).
    """
    onnx, path = Path(onnx), Path(path)
    targets = parse_targets(target)
    chosen = _choose_flavour(flavour, targets)
    if len(batch) != 3 or not 1 <= batch[0] <= batch[1] <= batch[2]:
        raise UsageError(f"batch is {tuple(batch)}", "give smallest, best-served and largest, for instance 1,8,64")
    if path.suffix == ".json":
        raise UsageError(f"{path} is the name of the manifest", "name the engine *.engine")
    model = _read_onnx(onnx)
    profile = _profile(onnx, model, batch)
    start = time.perf_counter()
    plan, flags = (_build_rtx if chosen == "tensorrt-rtx" else _build_tensorrt)(onnx, targets, profile)
    seconds = time.perf_counter() - start
    with atomic_path(path) as temporary:
        temporary.write_bytes(plan)
        digest = sha256_file(temporary)
    told = {entry.key: entry.value for entry in model.metadata_props}
    manifest: dict[str, Any] = {
        "schema": 1,
        "engine_sha256": digest,
        "size_bytes": len(plan),
        "onnx": onnx.name,
        "onnx_sha256": sha256_file(onnx),
        "kind": told.get("kind"),
        "resolution": json.loads(told.get("resolution", "null")),
        "widths": json.loads(told.get("widths", "null")),
        "config": json.loads(told.get("config", "null")),
        "flavour": chosen,
        "flavour_version": str(_import(chosen).__version__),
        "targets": list(targets),
        "precision": _precision(model),
        "profile": profile,
        "build_flags": list(flags),
        "build_seconds": round(seconds, 3),
        "tool": f"dcp-deploy {__version__}",
        "rebuild": shlex.join(
            ["dcp-deploy", "engine", str(onnx), "--target", ",".join(targets), "--flavour", chosen, "--out", str(path)]
        ),
    }
    write_json(_manifest_path(path), manifest)
    return Engine(path, manifest)


# ---- manifest ----


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of an engine. StaleArtifactError when it is missing, CorruptFileError when it is no manifest."""
    file = _manifest_path(Path(path))
    if not file.is_file():
        raise StaleArtifactError(f"{path} has no manifest {file.name}, so nothing is known of it", "build it again")
    try:
        manifest: Any = read_json(file)
    except ValueError as error:
        raise CorruptFileError(f"{file} is not JSON: {error}", "build the engine again") from error
    if not isinstance(manifest, dict) or not manifest.keys() >= _COMPARED or manifest["flavour"] not in FLAVOURS:
        raise CorruptFileError(f"{file} is not an engine manifest", "build the engine again")
    return manifest


def check_engine(path: str | os.PathLike[str], onnx: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Check an engine against its manifest, the ONNX file it should come from, and this machine.

    Compared are the engine's own hash, the hash of ``onnx`` (when given), the version of the flavour (when installed)
    and the compute capability of the GPU (when there is one). StaleArtifactError names the field that differs and the
    command that builds the engine again; InputError when the engine is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no engine {path}", "build it with: dcp-deploy engine")
    manifest = read_manifest(path)
    found: dict[str, tuple[object, object]] = {"engine_sha256": (manifest["engine_sha256"], sha256_file(path))}
    if onnx is not None:
        if not Path(onnx).is_file():
            raise InputError(f"there is no ONNX file {onnx} to compare {path} with", "check the path")
        found["onnx_sha256"] = (manifest["onnx_sha256"], sha256_file(onnx))
    with suppress(MissingCapabilityError):  # without the package there is nothing here to be incompatible with
        found["flavour_version"] = (manifest["flavour_version"], str(_import(manifest["flavour"]).__version__))
    gpu = _gpu()
    if gpu is not None and gpu not in manifest["targets"]:
        found["targets"] = (",".join(manifest["targets"]), gpu)
    for name, (recorded, actual) in found.items():
        if recorded != actual:
            message = f"{path} does not fit: {name} is {recorded} in its manifest, but {actual} here"
            raise StaleArtifactError(message, f"rebuild it: {manifest['rebuild']}")
    return manifest


def _manifest_path(engine: Path) -> Path:
    return engine.with_suffix(".json")


# ---- targets and flavours ----


def parse_targets(target: str) -> tuple[str, ...]:
    """Compute capabilities of a list of names: "sm89, RTX 5090" gives ("sm89", "sm120"). "auto": this machine's GPU.

    UsageError for a name that is not known, listing those that are, and for "auto" without a GPU.
    """
    if target.strip().lower() == "auto":
        gpu = _gpu()
        if gpu is None:
            raise UsageError("this machine has no GPU to take as the target", f"name one: {_known_targets()}")
        return (gpu,)
    by_name = {_plain(product): sm for sm, products in PRODUCTS.items() for product in products}
    found = []
    for name in target.split(","):
        sm = _plain(name) if _plain(name) in PRODUCTS else by_name.get(_plain(name))
        if sm is None:
            raise UsageError(f"target {name.strip()!r} is not known", f"use: {_known_targets()}")
        found.append(sm)
    return tuple(dict.fromkeys(found))


def _plain(name: str) -> str:
    return re.sub(r"nvidia|geforce|tesla|[^a-z0-9]", "", name.lower())


def _known_targets() -> str:
    return "; ".join(f"{sm} ({', '.join(products)})" for sm, products in PRODUCTS.items())


def _gpu() -> str | None:
    import torch

    return "sm{}{}".format(*torch.cuda.get_device_capability()) if torch.cuda.is_available() else None


def _choose_flavour(flavour: str, targets: Sequence[str]) -> str:
    if flavour not in ("auto", *FLAVOURS):
        raise UsageError(f"flavour is {flavour!r}", f"use one of: auto, {', '.join(FLAVOURS)}")
    beyond = [sm for sm in targets if sm not in RTX_TARGETS]
    if flavour == "tensorrt-rtx" and beyond:
        raise MissingCapabilityError(
            f"TensorRT for RTX does not serve {', '.join(beyond)}; it serves {', '.join(RTX_TARGETS)}",
            f"on the target GPU: pip install 'dcp-deploy[gpu]', then --flavour tensorrt --target {beyond[0]}",
        )
    if flavour == "auto":
        return "tensorrt" if beyond else "tensorrt-rtx"
    return flavour


def _import(flavour: str) -> Any:
    module, extra = FLAVOURS[flavour]
    try:
        return import_module(module)
    except ImportError as error:
        message = f"the flavour {flavour} needs the package {module}, which is not installed"
        raise MissingCapabilityError(message, f"pip install 'dcp-deploy[{extra}]'") from error


# ---- building ----


def _read_onnx(path: Path) -> Any:
    """The ModelProto of a file, with something in it."""
    import onnx

    try:
        model = onnx.load(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "check the path") from error
    except Exception as error:  # protobuf's own, which differs between its implementations
        raise CorruptFileError(f"{path} is not an ONNX file: {error}", "export it again") from error
    if not model.graph.input:
        raise CorruptFileError(f"{path} has no inputs: it is no ONNX model of a generator", "export it again")
    return model


def _profile(path: Path, model: Any, batch: tuple[int, int, int]) -> Shapes:
    """The optimisation profile: every input with the smallest, best-served and largest batch."""
    profile: Shapes = {}
    for value in model.graph.input:
        first, *rest = value.type.tensor_type.shape.dim
        if first.HasField("dim_value") or not all(dim.HasField("dim_value") for dim in rest):
            raise InputError(f"input {value.name!r} of {path} does not have a dynamic batch and other sizes fixed")
        sizes = [dim.dim_value for dim in rest]
        profile[value.name] = {key: [n, *sizes] for key, n in zip(("min", "opt", "max"), batch, strict=True)}
    return profile


def _precision(model: Any) -> str:
    """The types of the weights: "fp32", "fp16+fp32", ..."""
    import onnx

    kinds = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.BFLOAT16: "bf16"}
    found = {kinds[tensor.data_type] for tensor in model.graph.initializer if tensor.data_type in kinds}
    return "+".join(sorted(found))


def _build_rtx(path: Path, targets: Sequence[str], profile: Shapes) -> tuple[bytes, tuple[str, ...]]:
    """Ahead of time, no GPU involved. (engine bytes, names of the builder flags that were on)"""
    trt = _import("tensorrt-rtx")
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
    if not parser.parse_from_file(os.fspath(path)):
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
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        turing = (
            "leave sm75 out: TensorRT for RTX 1.7 has no float32 matrix product for it" if "sm75" in targets else ""
        )
        raise MissingCapabilityError(
            f"TensorRT for RTX cannot build {path} for {', '.join(targets)}: {_joined(lines)}", turing
        )
    flags = trt.BuilderFlag.__members__.items()
    return bytes(plan), tuple(sorted(name for name, flag in flags if config.get_flag(flag)))


def _build_tensorrt(path: Path, targets: Sequence[str], profile: Shapes) -> tuple[bytes, tuple[str, ...]]:
    """On the target GPU, through Polygraphy. TF32 is on, as in TensorRT itself (Polygraphy's default is off)."""
    gpu = _gpu()
    if tuple(targets) != (gpu,):
        command = f"dcp-deploy engine {path.name} --flavour tensorrt --target {','.join(targets)}"
        raise MissingCapabilityError(
            f"TensorRT builds on the GPU it builds for, {', '.join(targets)}; this machine has {gpu or 'none'}",
            f"on that machine: pip install 'dcp-deploy[gpu]', then {command}",
        )
    _import("tensorrt")
    from polygraphy.backend.trt import CreateConfig, EngineBytesFromNetwork, NetworkFromOnnxPath, Profile
    from polygraphy.exception import PolygraphyException

    shapes = Profile()
    for name, limits in profile.items():
        shapes.add(name, limits["min"], limits["opt"], limits["max"])
    network = NetworkFromOnnxPath(os.fspath(path), strongly_typed=True)
    try:
        plan = EngineBytesFromNetwork(network, config=CreateConfig(profiles=[shapes], tf32=True))()
    except PolygraphyException as error:
        raise InputError(f"TensorRT cannot build {path}: {error}") from error
    return bytes(plan), ("TF32",)


def _joined(lines: Sequence[str]) -> str:
    return " | ".join(dict.fromkeys(line.strip() for line in lines)) or "no reason given"
