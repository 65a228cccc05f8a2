"""What a file is: architecture, sizes and origin, read without running anything from it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CorruptFileError, InputError
from ..files import sha256_file

if TYPE_CHECKING:
    from ..generators import Generator

LICENCE_NOTE = (
    "A student inherits the terms of its teacher's weights and images; "
    "NVIDIA's published networks are for research or evaluation only."
)


def inspect_file(path: str | Path) -> dict[str, Any]:
    """Describe a generator's file in any format that is read, an ONNX file of ours, an engine or a bundle.

    The keys kind, format, resolution, widths, parameters, macs and sha256 are always there; None where the file does
    not tell. Raises InputError when there is no such file, CorruptFileError for a damaged
    one, UnknownFormatError for anything else.
    """
    file = Path(path)
    unknown = dict.fromkeys(("kind", "format", "resolution", "widths", "parameters", "macs"))
    if file.is_dir() or file.name.endswith(".tar.zst"):
        return {**unknown, **_bundle(file), "path": str(file)}
    if not file.is_file():
        raise InputError(f"there is no file {file}", "Check the path.")
    from ..export.runners.loading import sniff

    facts = _READERS[sniff(file)](file)
    size = {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
    return {**unknown, **facts, "path": str(file), **size, "licence": facts.get("licence") or LICENCE_NOTE}


def describe(generator: Generator) -> dict[str, Any]:
    """Architecture and costs of a generator, ready for JSON. MACs are per image."""
    from ..generators import count_macs, count_parameters

    return {
        **generator.config.to_dict(),
        "num_ws": generator.config.num_ws,
        "layers": list(generator.config.layer_names),
        "parameters": count_parameters(generator),
        "macs": count_macs(generator),
    }


def _checkpoint(path: Path) -> dict[str, Any]:
    from ..checkpoints import read_checkpoint

    checkpoint = read_checkpoint(path)  # reads every tensor, so a damaged file is found out
    return {
        "format": checkpoint.format,
        **describe(checkpoint.generator),
        "notes": list(checkpoint.notes),
        "globals": list(checkpoint.globals),
        "extra": checkpoint.extra,
        "licence": checkpoint.licence,
    }


def _onnx(path: Path) -> dict[str, Any]:
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)  # weights beside the file need not be read
        onnx.checker.check_model(os.fspath(path))
    except Exception as error:  # protobuf, the checker and the file system each have their own exceptions
        raise CorruptFileError(
            f"{path} is no valid ONNX file: {str(error).splitlines()[0]}", "Export it again."
        ) from error
    told = {prop.key: prop.value for prop in model.metadata_props}
    try:
        resolution, widths, config = (json.loads(told.get(key, "null")) for key in ("resolution", "widths", "config"))
    except ValueError as error:
        raise CorruptFileError(f"the metadata of {path} is damaged: {error}", "Export it again.") from error
    return {
        "format": "onnx",
        "kind": told.get("kind"),
        "resolution": resolution,
        "widths": widths,
        **_costs(config),
        "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "nodes": len(model.graph.node),
        "inputs": {value.name: _shape(value) for value in model.graph.input},
        "outputs": {value.name: _shape(value) for value in model.graph.output},
        "metadata": told,
    }


def _costs(config: Any) -> dict[str, int]:
    """Parameters and MACs of the network that a file was made from, when the file tells its config."""
    from ..generators import GeneratorConfig, count_macs, count_parameters

    if config is None:
        return {}
    try:
        network = GeneratorConfig.from_dict(config)
    except (TypeError, ValueError) as error:
        raise CorruptFileError(f"the config in its metadata is not usable: {error}", "Make the file again.") from error
    return {"parameters": count_parameters(network), "macs": count_macs(network)}


def _shape(value: Any) -> list[int | str]:
    """Dimensions of a graph's input or output; a dynamic one by its name."""
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _engine(path: Path) -> dict[str, Any]:
    from ..export import read_manifest

    manifest = read_manifest(path)
    told = {key: manifest.get(key) for key in ("kind", "resolution", "widths")}
    return {"format": "engine", **told, **_costs(manifest.get("config")), "manifest": manifest}


def _bundle(path: Path) -> dict[str, Any]:
    from ..export.runners.bundle import bundle_facts

    facts = bundle_facts(path)
    network = facts["provenance"].get("networks", {}).get("student", {})
    told = {key: network.get(key) for key in ("kind", "resolution", "widths", "parameters", "macs")}
    licence = facts["provenance"].get("licence") or LICENCE_NOTE
    return {"format": "bundle", **told, **{k: v for k, v in facts.items() if k != "kind"}, "licence": licence}


_READERS = {"checkpoint": _checkpoint, "onnx": _onnx, "engine": _engine}
