"""What the verbs answer that pack and serve."""

from __future__ import annotations

from typing import Literal

from ..export.integrity import BrowserModel, BundledDirection, BundledEngine, MeasuredSizing, ServedModel
from .base import Document, Facts, Part, Sha256, WithSettings


class BundleFacts(Part):
    """What a bundle's manifest says, without its list of files."""

    name: str
    tool: str
    models: dict[str, ServedModel]
    """What Triton serves, by name."""
    directions: dict[str, BundledDirection]
    """Directions along which ``edit`` moves w, by name."""
    engines: list[BundledEngine]
    sizing: MeasuredSizing
    sha256: Sha256
    """The hash of manifest.json, which holds the hashes of all files."""


class CheckedFacts(BundleFacts):
    """What is known of a bundle whose files were all compared with its manifest."""

    provenance: Facts
    file_count: int
    file_bytes: int


class WebFacts(Part):
    """What the manifest of a page for browsers says, without its list of files."""

    name: str
    tool: str
    model: BrowserModel
    directions: dict[str, BundledDirection]
    """Directions along which the page moves w, by name."""
    runtime: str
    """Package and version of what runs the model in the browser."""
    sha256: Sha256
    """The hash of manifest.json, which holds the hashes of all files."""


class WebCheckedFacts(WebFacts):
    """What is known of a page whose files were all compared with its manifest."""

    provenance: Facts
    file_count: int
    file_bytes: int


class Bundled(WithSettings, BundleFacts):
    """bundle SOURCE."""

    kind: Literal["dcp-deploy bundle"]


class WebBundled(WithSettings, WebFacts):
    """bundle SOURCE --web."""

    kind: Literal["dcp-deploy web page"]


class BundleVerified(Document, CheckedFacts):
    """bundle verify BUNDLE: every file is as the manifest says. A difference is an error, exit code 3."""

    path: str
    kind: Literal["dcp-deploy bundle"]


class WebVerified(Document, WebCheckedFacts):
    """bundle verify FOLDER of a page for browsers."""

    path: str
    kind: Literal["dcp-deploy web page"]


class ServingPage(Document):
    """serve FOLDER of a page for browsers: printed when the server answers."""

    http: str
    process: int
    """The server's process number."""


class Serving(Document):
    """serve: printed when the server answers. The verb ends when the server does."""

    http: str
    grpc: str
    metrics: str
    process: int
    """The server's process number."""


class PushedFile(Part):
    """One file in the repository; the card, README.md, is not listed."""

    name: str
    bytes: int
    sha256: Sha256


class Pushed(Document):
    """push RUN hf://OWNER/NAME."""

    repository: str
    licence: str
    files: list[PushedFile]
    commit: str | None
    """None with --dry-run, as is ``url``."""
    url: str | None
