"""The facts of the smallest bundle, for tests that seal a folder of their own."""

from __future__ import annotations

from typing import Any

FACTS: dict[str, Any] = {
    "name": "b",
    "tool": "dcp-deploy 0",
    "models": {},
    "directions": {},
    "engines": [],
    "sizing": {"best": {"instances": 1, "threads": 1}},
    "provenance": {},
}


def served(onnx: str, max_batch: int) -> dict[str, Any]:
    """Return the entry of a model."""
    return {"onnx": onnx, "max_batch": max_batch, "inputs": {}, "output": {}, "variants": [], "parity": {}}
