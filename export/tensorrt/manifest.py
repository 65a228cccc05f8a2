"""The manifest beside an engine, which records what it was built from and for, and the check whether it still fits."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, JsonValue, model_validator

from ...errors import CorruptFileError, InputError, MissingCapabilityError, StaleArtifactError
from ...files import sha256_file
from ...generators import GeneratorConfig
from ..graph.file import read_onnx
from ..integrity import Record, Sha256, parse_record
from . import targets

LARGEST = 1_000_000  # bytes of a manifest; ours have some kilobytes
_RANKS = {"z": 2, "c": 2, "ws": 3}  # dimensions of these inputs

# ---- the form of the manifest, which the schemas of ``engine`` and ``inspect`` publish ----

_Shape = Annotated[list[Annotated[int, Field(ge=1, lt=2**31)]], Field(min_length=1)]


def _of_a_generator(config: dict[str, JsonValue] | None) -> dict[str, JsonValue] | None:
    """Return a config unchanged. ValueError unless it describes a generator."""
    if config is not None:
        try:
            GeneratorConfig.from_dict(config)
        except (TypeError, KeyError) as error:
            raise ValueError(f"not the config of a generator ({error})") from error
    return config


class Profile(Record):
    """Shapes of one input: the smallest, those that were tuned for, and the largest."""

    min: _Shape
    opt: _Shape
    max: _Shape

    @model_validator(mode="after")
    def _ordered(self) -> Profile:
        sizes = list(zip(self.min, self.opt, self.max, strict=False))
        if len({len(self.min), len(self.opt), len(self.max)}) != 1 or any(list(row) != sorted(row) for row in sizes):
            raise ValueError("min, opt and max are not shapes of one input in this order")
        return self


class EngineSource(Record):
    """The ONNX file that an engine was built from; null where its metadata does not say it."""

    onnx: str
    onnx_sha256: Sha256
    kind: str | None
    licence: str | None
    licence_source: str | None
    resolution: Annotated[int, Field(ge=1, lt=2**31)] | None
    widths: list[int] | None
    config: Annotated[dict[str, JsonValue] | None, AfterValidator(_of_a_generator)]


class EngineManifest(EngineSource):
    """The file beside an engine: what it was built from, with what, and for which GPUs."""

    schema_version: Literal[1] = Field(alias="schema")
    engine_sha256: Sha256
    size_bytes: int = Field(ge=0, lt=2**63)
    flavour: Literal["tensorrt-rtx", "tensorrt"]
    flavour_version: str
    targets: list[Annotated[str, Field(pattern="^sm[0-9]{2,3}$")]] = Field(min_length=1)
    precision: str
    profile: dict[str, Profile] = Field(min_length=1)
    options: dict[str, JsonValue]
    build_flags: list[str]
    plugins: JsonValue
    """What compiled the plugins in it; null without plugins."""
    build_seconds: float = Field(ge=0)
    tool: str
    rebuild: str
    """The command that builds it again."""

    @model_validator(mode="after")
    def _usable(self) -> EngineManifest:
        if self.flavour == "tensorrt" and len(self.targets) != 1:
            raise ValueError(f"targets: an engine of TensorRT has one, not {len(self.targets)}")
        for name, shapes in self.profile.items():
            if len(shapes.min) != _RANKS.get(name, len(shapes.min)):
                raise ValueError(f"profile.{name}: {len(shapes.min)} dimensions, not {_RANKS[name]}")
        return self


@dataclass(frozen=True)
class Engine:
    """A TensorRT engine file and its manifest, the content of ``<name>.json`` beside ``<name>.engine``.

    The manifest records what the engine was built from (``onnx``, ``onnx_sha256``, ``kind``, ``resolution``,
    ``widths``, ``config``), how (``flavour``, ``flavour_version``, ``options``, ``build_flags``, ``plugins``, ``tool``,
    ``build_seconds``), for what (``targets``, ``precision``, ``profile``: min, opt and max shape of every input), and
    the result (``engine_sha256``, ``size_bytes``). ``rebuild`` is the command that builds it again.
    """

    path: Path
    manifest: dict[str, Any]


def manifest_path(engine: Path) -> Path:
    """Return the path of an engine's manifest."""
    return engine.with_suffix(".json")


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the manifest of an engine. StaleArtifactError if it is missing, CorruptFileError if it is not one."""
    file = manifest_path(Path(path))
    if not file.is_file():
        raise StaleArtifactError(f"{path} has no manifest {file.name}, so it cannot be checked", "Build it again.")
    try:
        if (size := file.stat().st_size) > LARGEST:
            raise ValueError(f"it has {size} bytes")
        return parse_record(file.read_bytes(), EngineManifest)
    except ValueError as error:
        raise CorruptFileError(f"{file} is not an engine manifest: {error}", "Build the engine again.") from error


def image_size(manifest: Mapping[str, Any]) -> tuple[int, int]:
    """Return (height, width) of an engine's images by its manifest: from the config, else the side of a square.

    Raises CorruptFileError if it has neither.
    """
    if (config := manifest.get("config")) is not None:
        return GeneratorConfig.from_dict(config).image_size
    if manifest["resolution"] is None:
        raise CorruptFileError(
            "the engine's manifest does not say how large its images are", "Build it from a file of dcp-deploy export."
        )
    return manifest["resolution"], manifest["resolution"]


def check_engine(path: str | os.PathLike[str], onnx: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Check an engine against its manifest, the ONNX file it should come from, and this machine.

    It compares the engine's own hash, the hash of ``onnx`` (if given), the version of the flavour (if installed; an
    engine built version-compatible only needs the same major version) and the compute capability of the GPU (if there
    is one). StaleArtifactError names the field that differs and the command that builds the engine again. InputError
    if the engine is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"the engine {path} does not exist", "Build it with: dcp-deploy engine")
    manifest = read_manifest(path)
    found: dict[str, tuple[object, object]] = {"engine_sha256": (manifest["engine_sha256"], sha256_file(path))}
    if onnx is not None:
        if not Path(onnx).is_file():
            raise InputError(f"the ONNX file {onnx} to compare {path} with does not exist", "Check the path.")
        found["onnx_sha256"] = (manifest["onnx_sha256"], onnx_sha256(Path(onnx)))
    options = manifest.get("options", {})
    with suppress(MissingCapabilityError):  # without the package no version can be compared
        versions = (manifest["flavour_version"], str(targets.import_flavour(manifest["flavour"]).__version__))
        if not (options.get("version_compatible") and len({version.split(".")[0] for version in versions}) == 1):
            found["flavour_version"] = versions
    gpu = targets.present_gpu()
    from_ampere_on = gpu is not None and int(gpu.removeprefix("sm")) >= 80  # where hardware-compatible engines run
    if gpu not in (None, *manifest["targets"]) and not (options.get("hardware_compatible") and from_ampere_on):
        found["targets"] = (",".join(manifest["targets"]), gpu)
    for name, (recorded, actual) in found.items():
        if recorded != actual:
            message = f"{path} does not fit: {name} is {recorded} in its manifest, but {actual} here"
            raise StaleArtifactError(message, f"Rebuild it: {manifest['rebuild']}")
    return manifest


def onnx_sha256(path: Path) -> str:
    """Return the hex sha256 of an ONNX file; if its weights are in files beside it, that of its hash and theirs."""
    parts = [sha256_file(path), *(sha256_file(file) for file in external_files(path))]
    return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()


def external_files(path: Path) -> list[Path]:
    """Return the files beside an ONNX file that hold its weights, sorted. InputError if one is missing or elsewhere."""
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    weights = [tensor for tensor in read_onnx(path).graph.initializer if uses_external_data(tensor)]
    files = [path.parent / name for name in sorted({ExternalDataInfo(tensor).location for tensor in weights})]
    for file in files:
        if file.resolve().parent != path.parent.resolve() or not file.is_file():
            raise InputError(f"{path} keeps weights in {file}, which is not a file beside it", "Export it again.")
    return files
