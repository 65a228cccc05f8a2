"""The resources of every kernel on every GPU, kept in resources.json.

``python tests/kernels/cuda/resources.py`` writes the file. Compiling all sources for all GPUs takes minutes, so the
tests compare the hash of the sources and compile a few.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dcp_deploy.files import write_json
from dcp_deploy.kernels.cuda.library import CAPABILITIES, FLAGS, SOURCES, compiled, source_texts

RECORD = Path(__file__).with_name("resources.json")
"""It holds sources (their hash), compiler, and kernels by name, then capability ("90")."""


def sources_hash() -> str:
    """Return the hex sha256 over all sources and flags."""
    parts = list(FLAGS)
    for source in SOURCES:
        for name, text in sorted(source_texts(source).items()):
            parts += [name, text]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def measure() -> dict[str, Any]:
    """Compile everything for every GPU and return the report of ptxas in the format of RECORD."""
    kernels: dict[str, dict[str, dict[str, int]]] = {}
    compilers = set()
    for source in SOURCES:
        for capability in CAPABILITIES:
            code = compiled(source, capability)
            compilers.add(code.compiler)
            for name, taken in sorted(code.kernels.items()):
                kernels.setdefault(name, {})[str(capability)] = asdict(taken)
    return {"sources": sources_hash(), "compiler": ", ".join(sorted(compilers)), "kernels": kernels}


if __name__ == "__main__":
    write_json(RECORD, measure())
