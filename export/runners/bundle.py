"""A bundle as a Runner, for programs that embed a generator: onnxruntime and numpy, no torch, no server.

from dcp_deploy import load_runner
runner = load_runner("bundle/")
images = runner(z=z, psi=0.7)
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CorruptFileError, UsageError
from ..integrity import ARCHIVE, MANIFEST, check_bundle, safe_name
from .onnx import onnx_runner
from .runner import Array, Draw, Runner

_BACKENDS = ("onnxruntime", "onnxruntime-winograd")


def bundle_runner(path: Path, backend: str, threads: int | None, model: str = "generator") -> Runner:
    """The ``model`` of a bundle, after every file of the bundle was compared with its manifest.

    May be called from many threads at once. A batch larger than the bundle's maximum is drawn in parts, so memory is
    bounded by that maximum. Raises what :func:`~.integrity.check_bundle` does, and UsageError for an archive, another
    backend than onnxruntime, or a model that is not in the bundle.
    """
    if path.name.endswith(ARCHIVE):
        raise UsageError(f"{path} is packed", f"unpack it first: tar --zstd -xf {path.name}")
    manifest = check_bundle(path)
    try:
        facts = manifest["models"][model]
        onnx, largest = path / safe_name(facts["onnx"]), int(facts["max_batch"])
    except (KeyError, TypeError, ValueError) as error:
        there = ", ".join(sorted(manifest.get("models", {})))
        raise UsageError(f"{path} has no model {model!r}", f"it has: {there}") from error
    if facts["onnx"] not in manifest["files"]:
        raise CorruptFileError(f"{MANIFEST} names {facts['onnx']}, which is not in the bundle", "make the bundle again")
    if backend not in ("auto", *_BACKENDS):
        raise UsageError(f"backend {backend!r} cannot run the bundle {path}", f"use {' or '.join(_BACKENDS)}")
    runner = onnx_runner(onnx, "onnxruntime" if backend == "auto" else backend, threads)
    return replace(runner, name=f"{manifest['name']}/{model}", draw=_in_parts(runner.draw, largest))


def _in_parts(draw: Draw, largest: int) -> Draw:
    def drawn(z: Array, psi: Array, c: Array | None) -> Array:
        if len(z) <= largest:
            return draw(z, psi, c)
        parts = [slice(start, start + largest) for start in range(0, len(z), largest)]
        return np.concatenate([draw(z[part], psi[part], None if c is None else c[part]) for part in parts])

    return drawn


def bundle_facts(path: Path) -> dict[str, Any]:
    """What ``inspect`` tells of a bundle: its manifest without the list of files, and how many there are."""
    manifest = check_bundle(path)
    files = manifest.pop("files")
    bytes_in_all = sum(entry["bytes"] for entry in files.values())
    return {**manifest, "file_count": len(files), "file_bytes": bytes_in_all}
