"""Where two artefacts part: the first layer whose values are not the same.

Both draw one batch, and what every layer hands on is compared in the order of computation. Errors only grow on the way,
so the first layer out of tolerance is where something is wrong.
"""

from __future__ import annotations

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

FEATURE_PIXELS = 2**19  # of the last layer, all samples: 8 of 256 px, 2 of 512 px; a few GB in all
FEWEST = 2
# Where 5e-3 of the 8-bit values differ by a step of 1 / 127.5, as allowed, the root mean square is 5.5e-4; that of an
# image is about 0.5.
BYTES_LIMIT = 2e-3
BYTES_FACTOR = 2  # truncation turns small errors into whole steps: 8e-4 of float16 on the demo's teacher into 2.9e-3


@dataclass(frozen=True)
class LayerDistance:
    """One value of both sides. Distances are None when they are no numbers or the shapes are unlike.

    ``relative``: the root mean square of the difference over that of the reference, of the worst sample.
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
    """The values in the order of computation; see :func:`bisect_layers`."""

    batch: tuple[Pair, ...]
    rows: tuple[LayerDistance, ...]

    @property
    def first(self) -> LayerDistance | None:
        """The first one out of tolerance."""
        return next((row for row in self.rows if not row.passed), None)

    @property
    def verdict(self) -> str:
        """A sentence that names the layer."""
        if self.first is None:
            return "no layer is out of tolerance on the batch of the worst image"
        found, index = self.first, self.rows.index(self.first)
        error = found.note or "its values are not finite"
        if found.relative is not None:
            error = f"relative error {found.relative:.2g}, allowed is {found.limit:g}"
        good = f"; {self.rows[index - 1].name} before it is right" if index else ""
        return f"the first layer out of tolerance is {found.name} ({error}{good})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"first": self.first and self.first.name, "verdict": self.verdict, **asdict(self)}


def bisect_layers(a: Runner, b: Runner, batch: Sequence[Pair], limit: float) -> Bisection:
    """Compare the layers of ``b`` with those of the reference ``a`` on a batch of (seed, psi).

    ``limit``: the relative error allowed. A large batch is cut to what fits in memory. Raises UsageError when a side
    does not show its layers, or both show none of the same name.
    """
    batch = batch[: max(FEWEST, FEATURE_PIXELS // a.resolution**2)]
    seeds, psi = [seed for seed, _ in batch], np.array([psi for _, psi in batch], np.float32)
    z, c = latents_of(seeds, a.z_dim), classes_of(seeds, a.c_dim)
    with full_float32():
        first, second = (layer_values(side, z, psi, c) for side in (a, b))
    shared = [name for name in first if name in second]
    if len(shared) < 2:
        raise UsageError(f"{a.name} and {b.name} have no layers of the same names", "compare two forms of one network")
    rows = []
    for name in shared[:-1]:
        rows.append(_compare(name, *_alike(name, first, second), limit))
    rows.append(_compare_images(first[IMAGE].values, second[IMAGE].values, (a.image, b.image), limit))
    return Bisection(tuple(batch), tuple(rows))


def _alike(name: str, first: Mapping[str, LayerValue], second: Mapping[str, LayerValue]) -> tuple[Array, Array]:
    """The two values, both multiplied by the next style if one of them is."""
    sides = (first, second)
    if first[name].styled == second[name].styled:
        return first[name].values, second[name].values
    values = []
    for side in sides:
        found = side[name].values
        if not side[name].styled:
            styles = first[f"styles.{name.replace('conv0', 'conv1')}"].values
            found = found * (styles / np.abs(styles).max(axis=1, keepdims=True))[:, :, None, None]
        values.append(found)
    return values[0], values[1]


def _compare_images(a: Array, b: Array, forms: tuple[str, str], limit: float) -> LayerDistance:
    if forms == ("float", "float"):
        return _compare(IMAGE, a, b, limit)
    sides = []
    for images, form in zip((a, b), forms, strict=True):
        last = images.transpose(0, 2, 3, 1) if form == "float" and images.ndim == 4 else images
        broken = ~np.isfinite(last.astype(np.float32))
        sides.append(np.where(broken, np.nan, unit(to_bytes(last, form))))
    return _compare(IMAGE, sides[0], sides[1], max(BYTES_FACTOR * limit, BYTES_LIMIT))


def _compare(name: str, a: Array, b: Array, limit: float) -> LayerDistance:
    if a.shape != b.shape:
        return LayerDistance(name, None, None, None, limit, False, f"its shape is {list(b.shape)}, not {list(a.shape)}")
    with np.errstate(invalid="ignore", over="ignore"):  # infinity is among what is looked for
        difference = np.abs(a.astype(np.float64) - b)
    if not np.isfinite(difference).all():
        wrong = [np.count_nonzero(~np.isfinite(side)) for side in (a, b)]
        note = f"{wrong[1]} of its values are not finite, {wrong[0]} of the reference's"
        return LayerDistance(name, None, None, None, limit, False, note)
    size = np.square(a, dtype=np.float64).reshape(len(a), -1).mean(axis=1)
    error = np.square(difference).reshape(len(a), -1).mean(axis=1)
    relative = float(np.sqrt(error / np.maximum(size, 1e-30)).max())
    return LayerDistance(name, float(difference.max()), float(difference.mean()), relative, limit, relative <= limit)
