"""The checks of the parity gate, batch by batch: the images of each artefact alone, and their distance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch

from ...generators import Generator
from ...sizes import pixels
from ..runners.runner import Runner, classes_of, latents_of
from .distances import SSIM_WINDOW, STEP, Array, Distances, Pair
from .pictures import to_bytes, unit
from .tolerance import Check, Tolerance

WILD = 10.0  # nominal is [-1, 1]; trained networks overshoot a little, untrained ones reach 5, a 0..255 image 255
WILD_SHARE = 0.05
SATURATED_SHARE = 0.95
# Pixels that the readable network generates in one call. On a CPU features of one 256 px image stay in the cache, and
# eight take twice the time each. On a GPU it is a matter of memory: 8 images of 512 px take about 3 GB at full width.
READABLE_PIXELS = {"cpu": 2**16, "cuda": 2**21}


class ImageChecks:
    """What must hold for the images of one artefact, whatever the other one generates."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.values = self.bad = self.wild = self.flat = self.images = 0
        self.first: dict[float, Array] = {}  # the first image of each psi
        self.varied: set[float] = set()

    def look(self, images: Array, batch: Sequence[Pair]) -> None:
        """Count what is wrong in ``images`` [B, H, W, 3], raw values as float32 (uint8 as 0..255)."""
        finite = np.isfinite(images)
        self.images += len(images)
        self.values += images.size
        self.bad += images.size - int(finite.sum())
        if self.runner.image == "uint8":
            step, wild = 1.0, (images == 0) | (images == 255)
        else:
            step, wild = STEP, np.abs(images) > WILD
        self.wild += int((wild & finite).sum())
        for image, (_, psi) in zip(images, batch, strict=True):
            self.flat += bool(np.ptp(image, axis=(0, 1)).max() <= step)
            first = self.first.setdefault(psi, image)
            if np.abs(image - first).max() > step:
                self.varied.add(psi)

    @property
    def constant(self) -> list[float]:
        """Return each psi at which every latent gave the same image; psi 0 is excluded, where that is correct."""
        return sorted(psi for psi in self.first if psi != 0 and psi not in self.varied)

    def checks(self, label: str, original: ImageChecks | None = None) -> Iterator[Check]:
        """Yield the checks. ``original`` is the artefact it was made from, whose own faults the export only repeats."""
        name, values = self.runner.name, max(self.values, 1)
        detail = f"{self.bad} of {values} values of {name} are NaN or infinite"
        detail += _likewise(self.bad, original.bad if original else 0, "values")
        yield Check.none(f"values of {label} are finite", self.bad, f"yes, all {values:,}", detail)
        limit, what = WILD_SHARE, f"beyond +-{WILD:g}"
        if self.runner.image == "uint8":
            limit, what = SATURATED_SHARE, "0 or 255"
        detail = f"{self.wild / values:.1%} of the values of {name} are {what}, at most {limit:.0%} may be"
        yield Check.at_most(f"values of {label} are within range", self.wild / values, limit, detail)
        detail = f"{self.flat} of {self.images} images of {name} have a single colour"
        detail += _likewise(self.flat, original.flat if original else 0, "images")
        yield Check.none(
            f"images of {label} have several colours", self.flat, f"yes, all {self.images:,}", detail
        )  # fmt: skip
        constant = self.constant
        where = ", ".join(f"{psi:g}" for psi in constant)
        detail = f"{name} generates the same image for all latents at psi {where}"
        detail += _likewise(len(constant), len(original.constant) if original else 0, "psi")
        yield Check.none(f"images of {label} change with the latent", len(constant), "yes, at every psi", detail)


def _likewise(own: int, original: int, what: str) -> str:
    """Return words about a fault that the original has too; if as often, the export is not the cause."""
    if not original:
        return ""
    blame = "; the network is like that, not its export" if original >= own else ""
    return f" (the original: {original} {what} too{blame})"


class ImageStream:
    """The comparison of two runners, batch by batch."""

    def __init__(self, a: Runner, b: Runner) -> None:
        self.a, self.b = ImageChecks(a), ImageChecks(b)
        facts = [(runner.z_dim, runner.c_dim, pixels(runner.image_size)) for runner in (a, b)]
        self.comparable = facts[0] == facts[1]
        self.problem = "" if self.comparable else "(z_dim, c_dim, image size) is {} and {}".format(*facts)
        self.distances = Distances()
        self.batches: set[int] = set()

    def compare(self, batch: Sequence[Pair]) -> bool:
        """Run one batch on both artefacts and add it. Return False if a shape is wrong."""
        with full_float32():
            pair = [_images(checks.runner, batch) for checks in (self.a, self.b)]
        size = self.a.runner.image_size
        for checks, images in zip((self.a, self.b), pair, strict=True):
            if images.shape != (len(batch), *size, 3):
                shape = f"{list(images.shape)}, channels last, for a batch of {len(batch)}"
                self.problem = f"{checks.runner.name} returned {shape}"
                return False
            checks.look(images, batch)
        self.batches.add(len(batch))
        self._add(pair[0], pair[1], batch)
        return True

    @property
    def floats(self) -> bool:
        """Return whether both artefacts return float images; otherwise they are compared as 8-bit values."""
        return self.a.runner.image == self.b.runner.image == "float"

    def _add(self, a: Array, b: Array, batch: Sequence[Pair]) -> None:
        broken = ~(np.isfinite(a) & np.isfinite(b))
        a8, b8 = to_bytes(a, self.a.runner.image), to_bytes(b, self.b.runner.image)
        a, b = (np.clip(a, -1, 1), np.clip(b, -1, 1)) if self.floats else (unit(a8), unit(b8))
        steps = np.abs(a8.astype(np.int16) - b8.astype(np.int16))
        self.distances.add(a, b, steps, broken, batch)

    def lost(self, limits: Tolerance) -> bool:
        """Return whether a limit of the worst image or value is broken, so that further images cannot help."""
        found = self.distances
        largest = found.max_abs if self.floats else 0.0
        bounds = ((largest, limits.max_abs), (found.max_steps, limits.max_steps))
        floors = ((found.least_psnr, limits.psnr_db), (found.least_ssim, self._least_ssim(limits)))
        return (
            bool(self.problem)
            or any(limit is not None and not value <= limit for value, limit in bounds)
            or any(limit is not None and not value >= limit for value, limit in floors)
        )

    def _least_ssim(self, limits: Tolerance) -> float | None:
        """Return the limit on SSIM, None also for images that are smaller than its window."""
        return limits.ssim if min(self.a.runner.image_size) >= SSIM_WINDOW else None

    def checks(self, limits: Tolerance) -> Iterator[Check]:
        """Yield all checks: the distances first, then those of each artefact alone."""
        if self.distances.values:
            yield from self._difference_checks(limits)
        yield Check.none("shapes agree", int(bool(self.problem)), "yes", self.problem)
        if self.distances.values:
            yield from self.a.checks("a")
            yield from self.b.checks("b", original=self.a)

    def _difference_checks(self, limits: Tolerance) -> Iterator[Check]:
        found = self.distances
        rows: tuple[tuple[str, float, float | None, str], ...] = (
            ("largest difference", found.max_abs, limits.max_abs if self.floats else None,
             "the images differ by up to {:.3g} in [-1, 1], allowed are {:g}"),
            ("largest 8-bit difference", found.max_steps, limits.max_steps,
             "the 8-bit images differ by up to {} steps, allowed are {}"),
            ("share of 8-bit values that differ", found.differing / found.values, limits.differing,
             "{:.2%} of the 8-bit values differ, allowed are {:.2%}"),
            ("99.9 % quantile of the difference", found.p999_abs, limits.p999_abs,
             "99.9 % of the values differ by up to {:.3g}, allowed are {:g}"),
            ("mean difference", found.sum_abs / found.values, limits.mean_abs,
             "the images differ by {:.3g} on average, allowed are {:g}"),
        )  # fmt: skip
        for name, value, limit, detail in rows:
            if limit is not None:
                yield Check.at_most(name, value, limit, detail.format(value, limit))
        if limits.psnr_db is not None:
            detail = f"the PSNR of the worst image is {found.least_psnr:.1f} dB, needed are {limits.psnr_db:g}"
            yield Check.at_least("PSNR of the worst image", found.least_psnr, limits.psnr_db, detail)
        if (least := self._least_ssim(limits)) is not None:
            where = "" if found.unlike is None else " (seed {}, psi {:g})".format(*found.unlike)
            detail = f"the SSIM of the least alike image is {found.least_ssim:.4f}{where}, needed are {least:g}"
            yield Check.at_least("SSIM of the least alike image", found.least_ssim, least, detail)


def full_float32() -> AbstractContextManager[None]:
    """Return a context in which torch's convolutions on a GPU are full float32; by default cuDNN rounds to TF32."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def _images(runner: Runner, batch: Sequence[Pair]) -> Array:
    """Return the batch's raw images, float32 and channels last.

    The readable network gets a large batch in parts: see ``READABLE_PIXELS``.
    """
    seeds = [seed for seed, _ in batch]
    psi = np.array([psi for _, psi in batch], np.float32)
    z, c = latents_of(seeds, runner.z_dim), classes_of(seeds, runner.c_dim)
    part = len(batch)
    if runner.backend == "torch" and isinstance(runner.source, Generator):
        kind = "cpu" if next(runner.source.parameters()).device.type == "cpu" else "cuda"
        part = max(1, READABLE_PIXELS[kind] // math.prod(runner.image_size))
    rows = [slice(start, start + part) for start in range(0, len(batch), part)]
    images = np.concatenate([runner(z=z[part], psi=psi[part], c=None if c is None else c[part]) for part in rows])
    if runner.image == "float" and images.ndim == 4:
        images = images.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images, np.float32)
