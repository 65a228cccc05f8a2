"""The facts of the smallest engine, for tests that write a manifest of their own."""

from __future__ import annotations

from typing import Any

ENGINE: dict[str, Any] = {
    "schema": 1, "onnx": "a.onnx", "onnx_sha256": "0" * 64, "kind": None, "licence": None, "licence_source": None,
    "resolution": None, "widths": None, "config": None, "engine_sha256": "0" * 64, "size_bytes": 9,
    "flavour": "tensorrt-rtx", "flavour_version": "1.7", "targets": ["sm89"], "precision": "fp32",
    "profile": {"z": {"min": [1, 8], "opt": [4, 8], "max": [16, 8]}}, "options": {"refit": False}, "build_flags": [],
    "plugins": None, "build_seconds": 1.5, "tool": "dcp-deploy 0", "rebuild": "dcp-deploy engine a.onnx",
}  # fmt: skip
