"""Finds the first layer in which two artefacts differ.

Both generate one batch, and the outputs of all layers are compared in the order of computation. Errors only grow from
layer to layer, so the first layer out of tolerance is the faulty one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...errors import UsageError
from ..runners.runner import Runner, classes_of, latents_of
from .distances import Array, Pair
from .image_stream import full_float32
from .layer_values import IMAGE, LayerValue, layer_values
from .pictures import to_bytes, unit

FEATURE_PIXELS = 2**19  # pixels of the last layer in all samples: 8 of 256 px, 2 of 512 px; a few GB in total
FEWEST = 2
# If 5e-3 of the 8-bit values differ by a step of 1 / 127.5, as is allowed, the root mean square is 5.5e-4; that of an
# image is about 0.5.
BYTES_LIMIT = 2e-3
BYTES_FACTOR = 2  # truncation makes whole steps of small errors: for float16 on the demo's teacher 2.9e-3 of 8e-4


@dataclass(frozen=True)
class LayerDistance:
    """One value in both artefacts. Distances are None if they are not finite or the shapes differ.

    ``relative`` is the root mean square of the difference over that of the reference, for the worst sample.
    """

    name: str
    max_abs: float | None
    mean_abs: float | None
    relative: float | None
    limit: float
    passed: bool
    note: str = ""


@dataclass(frozen=True)
class Bisection:
    """The compared values in the order of computation; see :func:`bisect_layers`."""

    batch: tuple[Pair, ...]
    rows: tuple[LayerDistance, ...]

    @property
    def first(self) -> LayerDistance | None:
        """Return the first value out of tolerance."""
        return next((row for row in self.rows if not row.passed), None)

    @property
    def verdict(self) -> str:
        """Return a sentence that names the layer."""
        if self.first is None:
            return "no layer is out of tolerance on the batch of the worst image"
        found, index = self.first, self.rows.index(self.first)
        error = found.note or "its values are not finite"
        if found.relative is not None:
            error = f"relative error {found.relative:.2g}, allowed is {found.limit:g}"
        good = f"; {self.rows[index - 1].name} before it is within it" if index else ""
        return f"the first layer out of tolerance is {found.name} ({error}{good})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"first": self.first and self.first.name, "verdict": self.verdict, **asdict(self)}


def bisect_layers(a: Runner, b: Runner, batch: Sequence[Pair], limit: float) -> Bisection:
    """Compare the layers of ``b`` with those of the reference ``a`` on a batch of (seed, psi).

    ``limit`` is the largest relative error allowed. A large batch is cut to what fits in memory. Raises UsageError if
    an artefact does not show its layers, or if they have no layer names in common.
    """
    batch = batch[: max(FEWEST, FEATURE_PIXELS // math.prod(a.image_size))]
    seeds, psi = [seed for seed, _ in batch], np.array([psi for _, psi in batch], np.float32)
    z, c = latents_of(seeds, a.z_dim), classes_of(seeds, a.c_dim)
    with full_float32():
        first, second = (layer_values(runner, z, psi, c) for runner in (a, b))
    shared = [name for name in first if name in second]
    if len(shared) < 2:
        raise UsageError(f"{a.name} and {b.name} have no layers of the same names", "Compare two forms of one network.")
    rows = [_compare(name, *_alike(name, first, second), limit) for name in shared[:-1]]
    rows.append(_compare_images(first[IMAGE].values, second[IMAGE].values, (a.image, b.image), limit))
    return Bisection(tuple(batch), tuple(rows))


def _alike(name: str, first: Mapping[str, LayerValue], second: Mapping[str, LayerValue]) -> tuple[Array, Array]:
    """Return the two values, both multiplied by the next style if one of them is."""
    a, b = first[name], second[name]
    if a.styled == b.styled:
        return a.values, b.values
    styles = first[f"styles.{name.replace('conv0', 'conv1')}"].values
    scale = (styles / np.abs(styles).max(axis=1, keepdims=True))[:, :, None, None]
    return a.values if a.styled else a.values * scale, b.values if b.styled else b.values * scale


def _compare_images(a: Array, b: Array, formats: tuple[str, str], limit: float) -> LayerDistance:
    if formats == ("float", "float"):
        return _compare(IMAGE, a, b, limit)
    units = []
    for images, image in zip((a, b), formats, strict=True):
        last = images.transpose(0, 2, 3, 1) if image == "float" and images.ndim == 4 else images
        broken = ~np.isfinite(last.astype(np.float32))
        units.append(np.where(broken, np.nan, unit(to_bytes(last, image))))
    return _compare(IMAGE, units[0], units[1], max(BYTES_FACTOR * limit, BYTES_LIMIT))


def _compare(name: str, a: Array, b: Array, limit: float) -> LayerDistance:
    if a.shape != b.shape:
        return LayerDistance(name, None, None, None, limit, False, f"its shape is {list(b.shape)}, not {list(a.shape)}")
    with np.errstate(invalid="ignore", over="ignore"):  # values may be infinite
        difference = np.abs(a.astype(np.float64) - b)
    if not np.isfinite(difference).all():
        wrong = [np.count_nonzero(~np.isfinite(values)) for values in (a, b)]
        note = f"{wrong[1]} of its values are not finite, {wrong[0]} of the reference's"
        return LayerDistance(name, None, None, None, limit, False, note)
    size = np.square(a, dtype=np.float64).reshape(len(a), -1).mean(axis=1)
    error = np.square(difference).reshape(len(a), -1).mean(axis=1)
    relative = float(np.sqrt(error / np.maximum(size, 1e-30)).max())
    return LayerDistance(name, float(difference.max()), float(difference.mean()), relative, limit, relative <= limit)
