"""Description of a file: architecture, sizes and origin, read without running code from it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CorruptFileError, InputError
from ..files import is_run_directory, sha256_file

if TYPE_CHECKING:
    from ..generators import Generator


def inspect_file(path: str | Path, *, network: str | None = None) -> dict[str, Any]:
    """Describe a checkpoint in any known format, an exported ONNX file, an engine or a bundle.

    The keys kind, format, resolution, image_size, widths, parameters, macs and sha256 always exist; unknown values are
    None. ``network`` chooses among several generators of a checkpoint. Raises InputError for a missing file,
    CorruptFileError for a damaged one, UnknownFormatError for any other, UsageError for a ``network`` that is not in
    the file.
    """
    file = Path(path)
    unknown = dict.fromkeys(("kind", "format", "resolution", "image_size", "widths", "parameters", "macs"))
    if not (file.is_file() or file.is_dir()):
        raise InputError(f"{file} does not exist", "Check the path.")
    from ..export.integrity import MANIFEST
    from ..export.kinds import kind_of

    kind = kind_of(file, network=network)
    if file.is_dir() and not (file / MANIFEST).exists():
        raise _ordinary_folder(file)
    if kind == "bundle":
        return {**unknown, **_bundle(file), "path": str(file)}
    facts = _checkpoint(file, network) if kind == "checkpoint" else _READERS[kind](file)
    size = {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
    return {**unknown, **facts, "path": str(file), **size, **licence_facts(facts)}


def licence_facts(facts: Mapping[str, Any]) -> dict[str, str | None]:
    """Return ``licence`` and ``licence_source`` of a file with these facts, the same words for every kind of file."""
    from ..checkpoints.provenance import UNKNOWN_LICENCE

    return {"licence": facts.get("licence") or UNKNOWN_LICENCE, "licence_source": facts.get("licence_source")}


def describe(generator: Generator) -> dict[str, Any]:
    """Return architecture and costs of a generator, ready for JSON. MACs are per image."""
    from ..generators import count_macs, count_parameters

    return {
        **generator.config.to_dict(),
        "base": list(generator.config.base),
        "image_size": list(generator.config.image_size),
        "num_ws": generator.config.num_ws,
        "layers": list(generator.config.layer_names),
        "parameters": count_parameters(generator),
        "macs": count_macs(generator),
    }


def _checkpoint(path: Path, network: str | None) -> dict[str, Any]:
    from ..checkpoints import read_checkpoint
    from ..checkpoints.provenance import licence_of

    checkpoint = read_checkpoint(path, network=network)  # reads every tensor, so damage is noticed
    return {
        "format": checkpoint.format,
        **describe(checkpoint.generator),
        "networks": [asdict(one) for one in checkpoint.networks],
        "notes": list(checkpoint.notes),
        "globals": list(checkpoint.globals),
        "unread": list(checkpoint.unread),
        "extra": checkpoint.extra,
        **licence_of(checkpoint, path),
    }


def _onnx(path: Path) -> dict[str, Any]:
    import onnx

    from ..export.graph.releases import runtime_words
    from ..export.graph.stored import layer_storage
    from ..export.graph.versions import versions_of

    try:
        model = onnx.load(path, load_external_data=False)  # the weights are not needed
        onnx.checker.check_model(os.fspath(path))
    except Exception as error:  # protobuf, the checker and the file system raise different types
        raise CorruptFileError(
            f"{path} is not a valid ONNX file: {str(error).splitlines()[0]}", "Export it again."
        ) from error
    metadata = {prop.key: prop.value for prop in model.metadata_props}
    try:
        resolution, widths, config = (
            json.loads(metadata.get(key, "null")) for key in ("resolution", "widths", "config")
        )
    except ValueError as error:
        raise CorruptFileError(f"the metadata of {path} is damaged: {error}", "Export it again.") from error
    return {
        "format": "onnx",
        "kind": metadata.get("kind"),
        "resolution": resolution,
        "widths": widths,
        **_costs(config),
        "ir_version": model.ir_version,
        "runs_in": runtime_words(*versions_of(model)),
        "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "nodes": len(model.graph.node),
        "inputs": {value.name: _shape(value) for value in model.graph.input},
        "outputs": {value.name: _shape(value) for value in model.graph.output},
        "weights": [asdict(row) for row in layer_storage(model)],
        "metadata": metadata,
        **licence_facts(metadata),
    }


def _costs(config: Any) -> dict[str, Any]:
    """Return image size, parameters and MACs of the network with this config; nothing for None."""
    from ..generators import GeneratorConfig, count_macs, count_parameters

    if config is None:
        return {}
    try:
        network = GeneratorConfig.from_dict(config)
    except (TypeError, ValueError) as error:
        raise CorruptFileError(f"the config in the metadata is invalid: {error}", "Make the file again.") from error
    costs = {"parameters": count_parameters(network), "macs": count_macs(network)}
    return {"image_size": list(network.image_size), **costs}


def _shape(value: Any) -> list[int | str]:
    """Return the dimensions of a graph's input or output; dynamic ones by name."""
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _engine(path: Path) -> dict[str, Any]:
    from ..export import read_manifest

    manifest = read_manifest(path)
    network = {key: manifest.get(key) for key in ("kind", "resolution", "widths")}
    costs = _costs(manifest.get("config"))
    return {"format": "engine", **network, **costs, "manifest": manifest, **licence_facts(manifest)}


_MODELS = (".safetensors", ".onnx", ".engine", ".pkl", ".pt", ".pth", ".ckpt", ".npz", ".tar.zst")


def _ordinary_folder(folder: Path) -> InputError:
    """Return the error for a folder that is neither a bundle nor a run: it names what could be inspected in it."""
    from ..checkpoints.pickles.values import printable

    inside = sorted(folder.iterdir())
    known = [path for path in inside if path.is_file() and path.name.endswith(_MODELS)]
    known += [
        path for path in inside if is_run_directory(path) or (path.is_dir() and (path / "manifest.json").exists())
    ]
    shown = ", ".join(printable(path.name, 80) for path in known[:5]) or "nothing that could be inspected"
    remedy = f"Give one of them: {known[0]}" if known else "Give a file, a bundle or a run directory of build."
    return InputError(f"{folder} is a folder, not a bundle or a run directory; it holds {shown}", remedy)


def _bundle(path: Path) -> dict[str, Any]:
    from ..export.integrity import WEB_PAGE
    from ..export.runners.bundle import bundle_facts

    facts = bundle_facts(path)
    student = facts["provenance"].get("networks", {}).get("student", {})
    network = {key: student.get(key) for key in ("kind", "resolution", "image_size", "widths", "parameters", "macs")}
    known = {name: value for name, value in facts.items() if name != "kind"}
    kind = "web page" if facts["kind"] == WEB_PAGE else "bundle"
    return {"format": kind, **network, **known, **licence_facts(facts["provenance"])}


_READERS = {"onnx": _onnx, "engine": _engine}
