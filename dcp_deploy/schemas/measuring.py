"""What the verbs answer that look at models: compare, draw."""

from __future__ import annotations

from ..export.parity.bisect import LayerDistance
from ..export.parity.distances import ImageDistance
from ..export.parity.tolerance import Check, Tolerance
from ..export.serving.endpoint_check import Load
from .base import Document, Facts, Part

# ---- verify ----


class Worst(Part):
    """The sample that differs most."""

    seed: int
    psi: float


class Layers(Part):
    """--bisect: the two networks compared layer by layer."""

    first: str | None
    """The first layer out of tolerance; null: none is."""
    verdict: str
    batch: list[tuple[int, float]]
    """Seed and psi of each sample."""
    rows: list[LayerDistance]
    """In the order of computation."""


class Parity(Part):
    """Two artefacts compared on the same latents.

    ``max_abs``, ``mean_abs``, ``p999_abs`` (99.9 % quantile) in [-1, 1]; ``max_steps``, ``mean_steps``, ``p999_steps``
    in steps of 8 bits; ``differing`` is a share of the values; ``least_``: of the least alike image. null: not finite,
    or not to be had from 8 bits.
    """

    passed: bool
    a: Facts
    """The reference: name, backend, image."""
    b: Facts
    images: int
    psis: list[float]
    seeds: tuple[int, int]
    """First and last."""
    batches: list[int]
    precision: str | None
    tolerance: Tolerance
    checks: list[Check]
    max_abs: float | None
    mean_abs: float | None
    p999_abs: float | None
    psnr_db: float | None
    least_psnr_db: float | None
    ssim: float | None
    least_ssim: float | None
    max_steps: int | None
    mean_steps: float | None
    p999_steps: int | None
    differing: float | None
    worst: Worst | None
    worst_list: list[ImageDistance]
    layers: Layers | None


class Verified(Document, Parity):
    """verify A B. With ``passed`` false the exit code is 5."""


class VerifiedServer(Document):
    """verify BUNDLE http://HOST:PORT. With ``passed`` false the exit code is 5."""

    passed: bool
    address: str
    model: str
    first_ms: float
    """The very first request, of one image."""
    alone: Parity
    load: Load | None
    under_load: list[Parity]


# ---- sample ----


class Sampled(Document):
    """A picture."""

    path: str
    backend: str
    settings: str
    """TOML file with the flags that make it again: ``--config``."""
