"""TensorRT engines: built from an ONNX file, with a manifest that records what each was built for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...lazy import import_on_use

__all__ = ["Engine", "EngineOptions", "build_engine", "check_engine", "import_flavour", "read_manifest"]

if TYPE_CHECKING:
    from .engine import EngineOptions, build_engine
    from .manifest import Engine, check_engine, read_manifest
    from .targets import import_flavour
else:
    __getattr__, __dir__ = import_on_use(
        __name__,
        {
            "engine": ("EngineOptions", "build_engine"),
            "manifest": ("Engine", "check_engine", "read_manifest"),
            "targets": ("import_flavour",),
        },
    )
