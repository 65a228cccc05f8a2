"""The Runner: one interface to everything that generates images. z, psi and a class in, images out, as numpy arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import UsageError

if TYPE_CHECKING:  # torch is not needed to run an ONNX file
    from ...generators import Generator
    from ..fused.generator import FusedGenerator, ImageForm

Array = npt.NDArray[Any]
Draw = Callable[[Array, Array, Array | None], Array]
"""From z [B, z_dim], psi [B] and c [B, c_dim] or None to images."""

NOISE_INPUT = "noise."  # before a layer's name, the name of an input of an ONNX file


@dataclass(frozen=True)
class Runner:
    """Generates images. Call it: ``runner(z=..., psi=..., c=None)``.

    ``image`` is the format of the result: "float" is float32 [B, 3, H, W], nominally in [-1, 1] and not clamped;
    "uint8" is [B, H, W, 3]. ``image_size`` is (H, W). ``c_dim`` 0 means unconditional.
    """

    name: str
    backend: str
    z_dim: int
    c_dim: int
    image_size: tuple[int, int]
    image: ImageForm
    draw: Draw = field(repr=False)  # for arrays that are already checked
    facts: Mapping[str, str] = field(default_factory=dict, repr=False)  # metadata of the file, such as "precision"
    batch: tuple[int, int] | None = None  # the smallest and largest that the file is for, if it names them
    source: Generator | FusedGenerator | Path | None = field(default=None, repr=False)  # whose layers can be inspected

    def __call__(self, z: Array, psi: Array | float = 1.0, c: Array | None = None) -> Array:
        """Generate one image per row of z [B, z_dim].

        ``psi``: one number or one per row, [B]. ``c`` [B, c_dim] is required for a class-conditional model, and only
        then. Any B is allowed, 0 too. Raises UsageError for a wrong shape or type, or a value that is not finite.
        """
        z = as_floats("z", z, (None, self.z_dim))
        psi = as_floats("psi", np.full(len(z), float(psi)) if np.ndim(psi) == 0 else psi, (len(z),))
        if c is None and self.c_dim:
            raise UsageError(f"{self.name} is class-conditional", f"Give c, one row of {self.c_dim} numbers per image.")
        if c is not None and not self.c_dim:
            raise UsageError(f"{self.name} is not class-conditional, but c was given", "Leave c out.")
        labels = None if c is None else as_floats("c", c, (len(z), self.c_dim))
        return self.draw(z, psi, labels) if len(z) else no_images(self.image, self.image_size)


def no_images(image: ImageForm, size: tuple[int, int]) -> Array:
    """Return the result for a batch of zero."""
    if image == "uint8":
        return np.zeros((0, *size, 3), np.uint8)
    return np.zeros((0, 3, *size), np.float32)


def in_parts(draw: Draw, largest: int) -> Draw:
    """Make a ``draw`` that splits larger batches into parts of at most ``largest`` rows."""

    def draw_parts(z: Array, psi: Array, c: Array | None) -> Array:
        parts = [slice(start, start + largest) for start in range(0, len(z), largest)]
        images = [draw(z[part], psi[part], None if c is None else c[part]) for part in parts]
        return images[0] if len(images) == 1 else np.concatenate(images)

    return draw_parts


def latents_of(seeds: Sequence[int], z_dim: int) -> npt.NDArray[np.float32]:
    """Return the latent of each seed, [N, z_dim], as NVIDIA's scripts draw it: ``RandomState(seed).randn``."""
    rows = [np.random.RandomState(seed).randn(z_dim) for seed in seeds]
    return np.stack(rows).astype(np.float32) if rows else np.zeros((0, z_dim), np.float32)


def classes_of(seeds: Sequence[int], c_dim: int) -> npt.NDArray[np.float32] | None:
    """Return class ``seed % c_dim`` for each seed, one-hot [N, c_dim]; None for an unconditional model."""
    return np.eye(c_dim, dtype=np.float32)[np.asarray(seeds, int) % c_dim] if c_dim else None


def feeds_of(z: Array, psi: Array, c: Array | None) -> dict[str, Array]:
    """Return a generator's inputs under the names that they have in its files; without ``c`` if it takes no classes."""
    return {"z": z, "psi": psi} if c is None else {"z": z, "psi": psi, "c": c}


def as_floats(name: str, values: Array | float, shape: tuple[int | None, ...]) -> npt.NDArray[np.float32]:
    """Return ``values`` as finite float32 of this shape, None being any size. UsageError names what is wrong."""
    array = np.asarray(values)
    expected = "[" + ", ".join("B" if size is None else str(size) for size in shape) + "]"
    fits = array.ndim == len(shape) and all(want in (None, have) for want, have in zip(shape, array.shape, strict=True))
    if not fits:
        raise UsageError(f"{name} has shape {list(array.shape)}, expected {expected}")
    if array.dtype.kind != "f":
        raise UsageError(f"{name} is an array of {array.dtype}, expected floating point numbers")
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is refused below
        array = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(array).all():
        raise UsageError(f"{name} holds {np.count_nonzero(~np.isfinite(array))} values that are not finite in float32")
    return array
