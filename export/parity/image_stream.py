"""What the parity gate looks at while both sides draw: each side by itself, and how far they are apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch

from ..runners.runner import Runner, classes_of, latents_of
from .distances import SSIM_WINDOW, STEP, Array, Distances, Pair
from .pictures import to_bytes, unit
from .tolerance import Check, Tolerance

WILD = 10.0  # nominal is [-1, 1]; trained networks overshoot a little, untrained ones reach 5, a 0..255 image 255
WILD_SHARE = 0.05
SATURATED_SHARE = 0.95
READABLE_PIXELS = 2**21  # of the readable network at once: 8 images of 512 px, some 3 GB of features at full width


class ImageChecks:
    """What must hold for the images of one side, whatever the other side draws."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.values = self.bad = self.wild = self.flat = self.images = 0
        self.first: dict[float, Array] = {}  # the first image of each psi
        self.varied: set[float] = set()

    def look(self, images: Array, batch: Sequence[Pair]) -> None:
        """Count what is wrong in ``images`` [B, R, R, 3], raw values as float32 (uint8 as 0..255)."""
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
        """The psi at which every latent gave the same image. Psi 0 means the mean code, so there it is no fault."""
        return sorted(psi for psi in self.first if psi != 0 and psi not in self.varied)

    def checks(self, label: str, original: ImageChecks | None = None) -> Iterator[Check]:
        """``original``: the side it was made from. What that does as well is no mistake of the export, and said."""
        name, values = self.runner.name, max(self.values, 1)
        detail = f"{self.bad} of {values} values of {name} are NaN or infinite"
        detail += _likewise(self.bad, original.bad if original else 0, "values")
        yield Check.at_most(f"values of {label} not finite", self.bad, 0, detail)
        limit, what = WILD_SHARE, f"beyond +-{WILD:g}"
        if self.runner.image == "uint8":
            limit, what = SATURATED_SHARE, "0 or 255"
        detail = f"{self.wild / values:.1%} of the values of {name} are {what}, at most {limit:.0%} may be"
        yield Check.at_most(f"values of {label} out of range", self.wild / values, limit, detail)
        detail = f"{self.flat} of {self.images} images of {name} have a single colour"
        detail += _likewise(self.flat, original.flat if original else 0, "images")
        yield Check.at_most(f"images of {label} of one colour", self.flat, 0, detail)
        constant = self.constant
        detail = f"{name} draws the same image for all latents at psi {', '.join(f'{psi:g}' for psi in constant)}"
        detail += _likewise(len(constant), len(original.constant) if original else 0, "psi")
        yield Check.at_most(f"psi at which {label} is constant", len(constant), 0, detail)


def _likewise(own: int, original: int, what: str) -> str:
    """Words about a fault that the original has too: when no less often, the export is not to blame."""
    if not original:
        return ""
    blame = "; the network is like that, not its export" if original >= own else ""
    return f" (the original: {original} {what} too{blame})"


class ImageStream:
    """The comparison of two runners, batch by batch."""

    def __init__(self, a: Runner, b: Runner) -> None:
        self.a, self.b = ImageChecks(a), ImageChecks(b)
        facts = [(runner.z_dim, runner.c_dim, runner.resolution) for runner in (a, b)]
        self.comparable = facts[0] == facts[1]
        self.problem = "" if self.comparable else "(z_dim, c_dim, resolution) is {} and {}".format(*facts)
        self.distances = Distances()
        self.batches: set[int] = set()

    def compare(self, batch: Sequence[Pair]) -> bool:
        """Draw one batch on both sides and add it. False when the shapes are wrong and going on makes no sense."""
        with full_float32():
            drawn = [_draw(side.runner, batch) for side in (self.a, self.b)]
        size = self.a.runner.resolution
        for side, images in zip((self.a, self.b), drawn, strict=True):
            if images.shape != (len(batch), size, size, 3):
                shape = f"{list(images.shape)}, channels last, for a batch of {len(batch)}"
                self.problem = f"{side.runner.name} drew {shape}"
                return False
            side.look(images, batch)
        self.batches.add(len(batch))
        self._add(drawn[0], drawn[1], batch)
        return True

    @property
    def floats(self) -> bool:
        """Whether both sides give floating point images; otherwise they are compared as 8-bit values."""
        return self.a.runner.image == self.b.runner.image == "float"

    def _add(self, a: Array, b: Array, batch: Sequence[Pair]) -> None:
        broken = ~(np.isfinite(a) & np.isfinite(b))
        a8, b8 = to_bytes(a, self.a.runner.image), to_bytes(b, self.b.runner.image)
        a, b = (np.clip(a, -1, 1), np.clip(b, -1, 1)) if self.floats else (unit(a8), unit(b8))
        steps = np.abs(a8.astype(np.int16) - b8.astype(np.int16))
        self.distances.add(a, b, steps, broken, batch)

    def checks(self, limits: Tolerance) -> Iterator[Check]:
        """All checks: the distances first, then what each side must be by itself."""
        if self.distances.values:
            yield from self._difference_checks(limits)
        yield Check.at_most("unlike shapes", int(bool(self.problem)), 0, self.problem)
        if self.distances.values:
            yield from self.a.checks("a")
            yield from self.b.checks("b", original=self.a)

    def _difference_checks(self, limits: Tolerance) -> Iterator[Check]:
        found = self.distances
        if self.floats and limits.max_abs is not None:
            detail = f"the images differ by up to {found.max_abs:.3g} in [-1, 1], allowed are {limits.max_abs:g}"
            yield Check.at_most("largest difference", found.max_abs, limits.max_abs, detail)
        if limits.max_steps is not None:
            detail = f"the 8-bit images differ by up to {found.max_steps} steps, allowed are {limits.max_steps}"
            yield Check.at_most("largest 8-bit difference", found.max_steps, limits.max_steps, detail)
        if limits.differing is not None:
            share = found.differing / found.values
            detail = f"{share:.2%} of the 8-bit values differ, allowed are {limits.differing:.2%}"
            yield Check.at_most("share of 8-bit values that differ", share, limits.differing, detail)
        if limits.p999_abs is not None:
            detail = f"99.9 % of the values differ by up to {found.p999_abs:.3g}, allowed are {limits.p999_abs:g}"
            yield Check.at_most("99.9 % quantile of the difference", found.p999_abs, limits.p999_abs, detail)
        if limits.mean_abs is not None:
            mean = found.sum_abs / found.values
            detail = f"the images differ by {mean:.3g} on average, allowed are {limits.mean_abs:g}"
            yield Check.at_most("mean difference", mean, limits.mean_abs, detail)
        yield from self._likeness_checks(limits)

    def _likeness_checks(self, limits: Tolerance) -> Iterator[Check]:
        found = self.distances
        if limits.psnr_db is not None:
            detail = f"the PSNR of the worst image is {found.least_psnr:.1f} dB, needed are {limits.psnr_db:g}"
            yield Check.at_least("PSNR of the worst image", found.least_psnr, limits.psnr_db, detail)
        if limits.ssim is not None and self.a.runner.resolution >= SSIM_WINDOW:
            where = "" if found.unlike is None else " (seed {}, psi {:g})".format(*found.unlike)
            detail = f"the SSIM of the least alike image is {found.least_ssim:.4f}{where}, needed are {limits.ssim:g}"
            yield Check.at_least("SSIM of the least alike image", found.least_ssim, limits.ssim, detail)


def full_float32() -> AbstractContextManager[None]:
    """A context in which torch's convolutions on a GPU keep all bits of float32: by default cuDNN rounds to TF32."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def _draw(runner: Runner, batch: Sequence[Pair]) -> Array:
    """The batch's images as they come, float32 and channels last.

    The readable network draws a large batch in parts, since it needs far more memory than what is compared with it.
    """
    seeds = [seed for seed, _ in batch]
    psi = np.array([psi for _, psi in batch], np.float32)
    z, c = latents_of(seeds, runner.z_dim), classes_of(seeds, runner.c_dim)
    part = max(1, READABLE_PIXELS // runner.resolution**2) if runner.backend == "torch" else len(batch)
    drawn = []
    for start in range(0, len(batch), part):
        rows = slice(start, start + part)
        drawn.append(runner(z=z[rows], psi=psi[rows], c=None if c is None else c[rows]))
    images = np.concatenate(drawn)
    if runner.image == "float" and images.ndim == 4:
        images = images.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images, np.float32)
