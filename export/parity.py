"""The gate: two artefacts get the same latents and must draw the same images.

Every (seed, psi) pair is drawn by both sides in batches of changing size, with several psi within a batch, so an export
that works for one sample only, or that reads one psi for all, does not pass.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ParityError, UsageError
from ..files import atomic_path
from ..generators import Generator
from .runners import Array, Runner, classes_of, latents_of, load_runner
from .tolerance import Tolerance

Source = Runner | Generator | str | os.PathLike[str]
Pair = tuple[int, float]  # (seed, psi)

STEP = 1 / 127.5  # one 8-bit step in units of [-1, 1]
WILD = 10.0  # nominal is [-1, 1]; trained networks overshoot a little, untrained ones reach 5, a 0..255 image 255
WILD_SHARE = 0.05
SATURATED_SHARE = 0.95
AMPLIFIED_PEAK = 255  # the largest difference in the picture of the worst sample is drawn this bright


@dataclass(frozen=True)
class Check:
    """One reason to pass or fail: ``value`` may be at most ``limit``. None stands for a value that is not finite."""

    name: str
    value: float | None
    limit: float
    passed: bool
    detail: str

    @classmethod
    def at_most(cls, name: str, value: float, limit: float, detail: str) -> Check:
        """Compare; NaN does not pass."""
        return cls(name, value if math.isfinite(value) else None, limit, value <= limit, detail)


@dataclass(frozen=True)
class ParityReport:
    """What :func:`verify` found. Distances that could not be computed (NaN, unlike shapes) are None.

    ``max_abs``, ``mean_abs``, ``psnr_db`` are of the images clamped to [-1, 1] (PSNR against the range of 2; None when
    the images are identical); ``max_steps``, ``mean_steps``, ``differing`` of the images as 8-bit values. When one side
    gives uint8, the other is truncated the same way first, and all figures are of 8-bit values.
    """

    a: dict[str, Any]
    b: dict[str, Any]
    images: int
    psis: tuple[float, ...]
    seeds: tuple[int, int]  # first, last
    batches: tuple[int, ...]
    tolerance: Tolerance
    checks: tuple[Check, ...]
    max_abs: float | None
    mean_abs: float | None
    psnr_db: float | None
    max_steps: int | None
    mean_steps: float | None
    differing: float | None
    worst: Pair | None
    worst_images: tuple[Array, Array] | None = field(repr=False, compare=False)  # each [R, R, 3] in [-1, 1]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; the worst sample's pixels are left out."""
        values = asdict(self)
        del values["worst_images"]
        worst = None if self.worst is None else {"seed": self.worst[0], "psi": self.worst[1]}
        return {"passed": self.passed, **values, "worst": worst}

    def raise_for_failure(self) -> None:
        """Raise ParityError, naming every failed check with its numbers, unless the report passed."""
        failed = [check.detail for check in self.checks if not check.passed]
        if failed:
            where = f" (worst: seed {self.worst[0]}, psi {self.worst[1]:g})" if self.worst else ""
            raise ParityError(f"{self.a['name']} and {self.b['name']} differ{where}: {'; '.join(failed)}")

    def save_worst(self, path: str | os.PathLike[str]) -> Path | None:
        """Write the worst sample as a PNG: a, b, and their difference amplified. None when nothing could be drawn."""
        if self.worst_images is None or self.worst is None:
            return None
        with atomic_path(path) as temporary:
            _triplet(*self.worst_images, *self.worst).save(temporary, format="PNG")
        return Path(path)


def verify(
    a: Source,
    b: Source,
    *,
    latents: int = 256,
    psis: Sequence[float] = (0.5, 0.7, 1.0),
    seed: int = 0,
    batches: Sequence[int] = (1, 3, 8),
    tolerance: Tolerance | None = None,
) -> ParityReport:
    """Compare two artefacts on ``latents`` seeds from ``seed`` on, each at every psi; ``a`` is the reference.

    The batches are cut in turn from one stream of pairs. Memory does not grow with the number of images. Does not raise
    for a difference: see :meth:`ParityReport.raise_for_failure`. UsageError for settings that compare nothing.
    """
    if latents < 2 or not psis or not batches or min(batches) < 1 or not 0 <= seed <= 2**32 - latents:
        raise UsageError(
            f"latents {latents}, psis {tuple(psis)}, batches {tuple(batches)}, seed {seed} compare nothing",
            "use 2 latents or more, at least one psi, batches of 1 or more, and a seed from 0 to 2^32 - latents",
        )
    first, second = (side if isinstance(side, Runner) else load_runner(side) for side in (a, b))
    stream = _Stream(first, second)
    if stream.comparable:
        pairs = [(seed + index, float(psi)) for index in range(latents) for psi in psis]
        for batch in _cut(pairs, batches):
            if not stream.compare(batch):
                break
    limits = tolerance or Tolerance()
    return ParityReport(
        a=_identity(first),
        b=_identity(second),
        images=stream.images,
        psis=tuple(float(psi) for psi in psis),
        seeds=(seed, seed + latents - 1),
        batches=tuple(batches),
        tolerance=limits,
        checks=tuple(stream.checks(limits)),
        worst=stream.worst,
        worst_images=stream.worst_images,
        **stream.distances(),
    )


def _identity(runner: Runner) -> dict[str, Any]:
    return {"name": runner.name, "backend": runner.backend, "image": runner.image}


def _cut(pairs: Sequence[Pair], sizes: Sequence[int]) -> Iterator[Sequence[Pair]]:
    start = 0
    for size in cycle(sizes):
        if start >= len(pairs):
            return
        yield pairs[start : start + size]
        start += size


# ---- one side ----


class _Side:
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

    def checks(self, label: str) -> Iterator[Check]:
        name, values = self.runner.name, max(self.values, 1)
        detail = f"{self.bad} of {values} values of {name} are NaN or infinite"
        yield Check.at_most(f"values of {label} not finite", self.bad, 0, detail)
        limit, what = WILD_SHARE, f"beyond +-{WILD:g}"
        if self.runner.image == "uint8":
            limit, what = SATURATED_SHARE, "0 or 255"
        detail = f"{self.wild / values:.1%} of the values of {name} are {what}, at most {limit:.0%} may be"
        yield Check.at_most(f"values of {label} out of range", self.wild / values, limit, detail)
        detail = f"{self.flat} of {self.images} images of {name} have a single colour"
        yield Check.at_most(f"images of {label} of one colour", self.flat, 0, detail)
        # At psi 0 every latent is the mean code, so only there all images may be the same.
        constant = sorted(psi for psi in self.first if psi != 0 and psi not in self.varied)
        detail = f"{name} draws the same image for all latents at psi {', '.join(f'{psi:g}' for psi in constant)}"
        yield Check.at_most(f"psi at which {label} is constant", len(constant), 0, detail)


# ---- both sides ----


class _Stream:
    """The comparison in constant memory: sums, maxima, and the worst pair of images so far."""

    def __init__(self, a: Runner, b: Runner) -> None:
        self.a, self.b = _Side(a), _Side(b)
        facts = [(runner.z_dim, runner.c_dim, runner.resolution) for runner in (a, b)]
        self.comparable = facts[0] == facts[1]
        self.problem = "" if self.comparable else "(z_dim, c_dim, resolution) is {} and {}".format(*facts)
        self.images = self.values = self.differing = self.max_steps = 0
        self.sum_abs = self.sum_square = self.sum_steps = self.max_abs = 0.0
        self.worst: Pair | None = None
        self.worst_images: tuple[Array, Array] | None = None
        self.worst_error = -1.0

    def compare(self, batch: Sequence[Pair]) -> bool:
        """Draw one batch on both sides and add it. False when the shapes are wrong and going on makes no sense."""
        drawn = [_draw(side.runner, batch) for side in (self.a, self.b)]
        size = self.a.runner.resolution
        for side, images in zip((self.a, self.b), drawn, strict=True):
            if images.shape != (len(batch), size, size, 3):
                shape = f"{list(images.shape)}, channels last, for a batch of {len(batch)}"
                self.problem = f"{side.runner.name} drew {shape}"
                return False
            side.look(images, batch)
        self._add(drawn[0], drawn[1], batch)
        return True

    @property
    def floats(self) -> bool:
        """Whether both sides give floating point images; otherwise they are compared as 8-bit values."""
        return self.a.runner.image == self.b.runner.image == "float"

    def _add(self, a: Array, b: Array, batch: Sequence[Pair]) -> None:
        broken = ~(np.isfinite(a) & np.isfinite(b))
        a8, b8 = _bytes(a, self.a.runner.image), _bytes(b, self.b.runner.image)
        a, b = (np.clip(a, -1, 1), np.clip(b, -1, 1)) if self.floats else (_unit(a8), _unit(b8))
        difference = np.abs(a - b)
        difference[broken] = np.inf
        steps = np.abs(a8.astype(np.int16) - b8.astype(np.int16))
        self.images += len(batch)
        self.values += steps.size
        self.sum_abs += float(difference.sum(dtype=np.float64))
        self.sum_square += float(np.square(difference, dtype=np.float64).sum())
        self.max_abs = max(self.max_abs, float(difference.max()))
        self.sum_steps += float(steps.sum(dtype=np.float64))
        self.max_steps = max(self.max_steps, int(steps.max()))
        self.differing += int(np.count_nonzero(steps))
        errors = difference.reshape(len(batch), -1).max(axis=1)
        index = int(errors.argmax())
        if errors[index] > self.worst_error:
            self.worst_error = float(errors[index])
            self.worst, self.worst_images = batch[index], (a[index].copy(), b[index].copy())

    def distances(self) -> dict[str, Any]:
        """The measured fields of the report. Not a number where nothing was compared or a value was not finite."""
        names = ("max_abs", "mean_abs", "psnr_db", "max_steps", "mean_steps", "differing")
        if not self.values or not math.isfinite(self.max_abs):
            return dict.fromkeys(names)
        mean_square = self.sum_square / self.values
        psnr = 10 * math.log10(4 / mean_square) if mean_square > 0 else None
        shares = (self.sum_abs / self.values, self.sum_steps / self.values, self.differing / self.values)
        return dict(zip(names, (self.max_abs, shares[0], psnr, self.max_steps, shares[1], shares[2]), strict=True))

    def checks(self, limits: Tolerance) -> Iterator[Check]:
        if self.values:
            yield from self._difference_checks(limits)
        yield Check.at_most("unlike shapes", int(bool(self.problem)), 0, self.problem)
        if self.values:
            yield from self.a.checks("a")
            yield from self.b.checks("b")

    def _difference_checks(self, limits: Tolerance) -> Iterator[Check]:
        if self.floats:
            detail = f"the images differ by up to {self.max_abs:.3g} in [-1, 1], allowed are {limits.max_abs:g}"
            yield Check.at_most("largest difference", self.max_abs, limits.max_abs, detail)
        detail = f"the 8-bit images differ by up to {self.max_steps} steps, allowed are {limits.max_steps}"
        yield Check.at_most("largest 8-bit difference", self.max_steps, limits.max_steps, detail)
        share = self.differing / self.values
        detail = f"{share:.2%} of the 8-bit values differ, allowed are {limits.differing:.2%}"
        yield Check.at_most("share of 8-bit values that differ", share, limits.differing, detail)


def _draw(runner: Runner, batch: Sequence[Pair]) -> Array:
    """The batch's images as they come, float32 and channels last."""
    seeds = [seed for seed, _ in batch]
    psi = np.array([psi for _, psi in batch], np.float32)
    images = runner(z=latents_of(seeds, runner.z_dim), psi=psi, c=classes_of(seeds, runner.c_dim))
    if runner.image == "float" and images.ndim == 4:
        images = images.transpose(0, 2, 3, 1)
    return images.astype(np.float32)


def _unit(values: npt.NDArray[np.uint8]) -> Array:
    """8-bit values to [-1, 1]: each stands for the middle of the interval that was truncated to it."""
    return (values.astype(np.float32) - 127.5) * np.float32(STEP)


def _bytes(images: Array, form: str) -> npt.NDArray[np.uint8]:
    """Raw images as 8-bit values, by the formula of the uint8 output; NaN as 0."""
    scaled = images if form == "uint8" else np.nan_to_num(images) * np.float32(127.5) + np.float32(128)
    return np.clip(scaled, 0, 255).astype(np.uint8)


# ---- the picture ----


def _triplet(a: Array, b: Array, seed: int, psi: float) -> Any:
    """a | b | amplified difference, each at least 256 px wide, with a caption above. A PIL image."""
    from PIL import Image, ImageDraw

    difference = np.nan_to_num(np.abs(a - b) / STEP, nan=AMPLIFIED_PEAK, posinf=AMPLIFIED_PEAK)
    gain = AMPLIFIED_PEAK / max(float(difference.max()), 1e-9)
    panels = [_bytes(a, "float"), _bytes(b, "float"), np.clip(difference * gain, 0, 255).astype(np.uint8)]
    captions = (f"a: seed {seed}, psi {psi:g}", "b", f"|a - b| x {gain:.3g}")
    scale = max(1, -(-256 // a.shape[0]))
    side, top = a.shape[0] * scale, 20
    picture = Image.new("RGB", (3 * side, side + top), "white")
    for index, (panel, caption) in enumerate(zip(panels, captions, strict=True)):
        enlarged = Image.fromarray(panel).resize((side, side), Image.Resampling.NEAREST)
        picture.paste(enlarged, (index * side, top))
        ImageDraw.Draw(picture).text((index * side + 4, 4), caption, fill="black")
    return picture
