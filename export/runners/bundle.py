"""A bundle as a Runner, for programs that embed a generator: onnxruntime and numpy, no torch, no server.

from dcp_deploy import load_runner
runner = load_runner("bundle/")
images = runner(z=z, psi=0.7)
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import CorruptFileError, UsageError, choose
from ..integrity import ARCHIVE, MANIFEST, check_bundle, check_served
from .onnx import onnx_runner
from .runner import Runner, in_parts

_BACKENDS = ("onnxruntime", "onnxruntime-winograd")


def bundle_runner(path: Path, backend: str, threads: int | None, model: str = "generator") -> Runner:
    """Check every file of a bundle against its manifest and open its ``model``.

    The Runner may be called from many threads at once. It splits batches larger than the bundle's maximum, so that this
    maximum bounds the memory. Raises what :func:`~.integrity.check_bundle` does, and UsageError for an archive, a
    backend other than onnxruntime, or a model that is not in the bundle.
    """
    manifest, onnx, largest = bundled_model(path, backend, model)
    runner = onnx_runner(onnx, backend, threads)
    return replace(runner, name=f"{manifest['name']}/{model}", draw=in_parts(runner.draw, largest))


def bundled_model(path: Path, backend: str, model: str) -> tuple[dict[str, Any], Path, int]:
    """Check a bundle. Return its manifest, the ONNX file of ``model`` and the largest batch that it serves.

    Errors as in :func:`bundle_runner`.
    """
    if path.name.endswith(ARCHIVE):
        raise UsageError(f"{path} is packed", f"Unpack it first: tar --zstd -xf {path.name}")
    manifest = check_served(path)
    facts = manifest["models"].get(model)
    if facts is None:
        known = choose(model, sorted(manifest["models"]))
        remedy = "Make the bundle with --synthesis." if model == "synthesis" else known
        raise UsageError(f"{path} has no model {model!r}", remedy)
    onnx, largest = path / facts["onnx"], facts["max_batch"]
    if facts["onnx"] not in manifest["files"]:
        raise CorruptFileError(
            f"{MANIFEST} names {facts['onnx']}, which is not in the bundle", "Make the bundle again."
        )
    if backend not in ("auto", *_BACKENDS):
        raise UsageError(f"backend {backend!r} cannot run the bundle {path}", f"Use {' or '.join(_BACKENDS)}.")
    return manifest, onnx, largest


def bundle_facts(path: Path) -> dict[str, Any]:
    """Return a bundle's manifest with the number and size of its files in place of their list."""
    manifest = check_bundle(path)
    files = manifest.pop("files")
    return {**manifest, "file_count": len(files), "file_bytes": sum(entry["bytes"] for entry in files.values())}
