"""The manifest beside an engine, which records what it was built from and for, and the check whether it still fits."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import CorruptFileError, InputError, MissingCapabilityError, StaleArtifactError
from ...files import read_json, sha256_file
from ...generators import GeneratorConfig
from ..graph.file import read_onnx
from . import targets

_NEEDED = {"engine_sha256", "onnx_sha256", "flavour", "flavour_version", "targets", "rebuild"}  # by check_engine


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
        manifest: Any = read_json(file)
    except ValueError as error:
        raise CorruptFileError(f"{file} is not JSON: {error}", "Build the engine again.") from error
    if not isinstance(manifest, dict) or not manifest.keys() >= _NEEDED:
        raise CorruptFileError(f"{file} is not an engine manifest", "Build the engine again.")
    if manifest["flavour"] not in targets.FLAVOURS:
        raise CorruptFileError(f"{file} names an unknown flavour {manifest['flavour']!r}", "Build the engine again.")
    return manifest


def image_size(manifest: Mapping[str, Any]) -> tuple[int, int]:
    """Return (height, width) of an engine's images by its manifest: from the config, else the side of a square.

    Raises CorruptFileError for a config that is not one.
    """
    config = manifest.get("config")
    if config is None:
        return manifest["resolution"], manifest["resolution"]
    try:
        return GeneratorConfig.from_dict(config).image_size
    except ValueError as error:
        raise CorruptFileError(f"the config in an engine's manifest is invalid: {error}", "Build it again.") from error


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
