"""What the verbs answer that pack and serve."""

from __future__ import annotations

from typing import Literal

from .base import Document, Facts, Part, Sha256


class Packed(Part):
    """What a bundle's manifest says, but for its files."""

    path: str
    kind: Literal["dcp-deploy bundle"]
    name: str
    tool: str
    models: dict[str, Facts]
    """What Triton serves: inputs, output, largest batch, variants, parity."""
    engines: list[Facts]
    sizing: Facts
    """How many copies were measured to draw most images."""
    sha256: Sha256
    """Of manifest.json, and so of everything."""


class Bundled(Document, Packed):
    """bundle SOURCE."""

    settings: str
    """TOML file with the flags that make it again: ``--config``."""


class BundleVerified(Document, Packed):
    """bundle verify BUNDLE: every file is as the manifest says. A difference is an error, exit code 3."""

    provenance: Facts
    file_count: int
    file_bytes: int


class Serving(Document):
    """serve: printed when the server answers; the verb ends when the server does."""

    http: str
    grpc: str
    metrics: str
    process: int
    """The server's process number."""
