"""What reading a file gives: the generator, and everything about its origin that a user should be told."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import sha256_file
from ..generators import Generator

NVIDIA_LICENCE = (
    "NVIDIA Source Code License: research or evaluation only; the same terms hold for students made from these weights"
)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A generator read from a file, in float32 and evaluation mode.

    ``format`` is "native", "nvidia", "rosinality" or "tensorflow". ``notes`` say, a sentence each, what the file
    lacked and what stands in its place. ``globals`` are the dotted names that a pickle mentions. ``licence`` is one
    line about the terms of the weights, None where the format does not tell. ``extra`` holds JSON values: the
    metadata of a native file, or facts about the original.
    """

    generator: Generator
    format: str
    notes: tuple[str, ...] = ()
    globals: tuple[str, ...] = ()
    licence: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def provenance(checkpoint: Checkpoint, path: str | os.PathLike[str]) -> dict[str, Any]:
    """The ``extra`` to save a converted generator with: what it was read from, and under which terms.

    A native file hands on what it says itself, so that converting twice loses nothing.
    """
    if checkpoint.format == "native":
        return checkpoint.extra
    source = {
        "file": Path(path).name,
        "format": checkpoint.format,
        "sha256": sha256_file(path),
        "licence": checkpoint.licence,
        "notes": list(checkpoint.notes),
        **checkpoint.extra,
    }
    return {"source": source}
