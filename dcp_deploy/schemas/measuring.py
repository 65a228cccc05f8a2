"""What the verbs answer that look at models: verify, sample."""

from __future__ import annotations

from ..export.parity.bisect import Bisection
from ..export.parity.gate import ParityReport
from ..export.serving.endpoint_check import EndpointReport
from .base import Document, Facts, Part, WithSettings, described_by

# ---- verify ----


class Worst(Part):
    """The sample that differs most."""

    seed: int
    psi: float


@described_by(Bisection)
class Layers(Part):
    """--bisect: the two networks compared layer by layer, in the order of computation."""

    first: str | None
    """The first layer out of tolerance; null: every layer is within it."""
    verdict: str


@described_by(ParityReport, without={"worst_images"})
class Parity(Part):
    __doc__ = ParityReport.__doc__

    passed: bool
    a: Facts
    """The reference: name, backend, image."""
    b: Facts
    worst: Worst | None
    layers: Layers | None


class Verified(Document, Parity):
    """verify A B. With ``passed`` false the exit code is 5."""


@described_by(EndpointReport)
class VerifiedServer(Document):
    """verify BUNDLE http://HOST:PORT. With ``passed`` false the exit code is 5."""

    passed: bool
    alone: Parity
    under_load: list[Parity]


# ---- sample ----


class Sampled(WithSettings):
    """A page of images, an animation, or a folder with a file for each image."""

    backend: str
    images: int
    """Number of images that were generated; of an animation, its frames."""
