"""The parity gate: two artefacts get the same latents and must generate the same images.

Both artefacts generate every (seed, psi) pair in batches of varying size, with several psi in a batch. So an export
that works only for one sample, or that reads one psi for all samples, does not pass.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

from ...errors import InputError, ParityError, UsageError
from ...files import write_bytes
from ...progress import Progress
from ..runners.runner import Runner
from .artifacts import Artifact, load_pair
from .bisect import Bisection, bisect_layers
from .distances import Array, ImageDistance, Pair
from .image_stream import ImageStream
from .pictures import triplet
from .tolerance import PRECISIONS, Check, Tolerance, tolerance_for

LARGEST_BATCH = 8  # for an artefact that does not declare its largest batch
ODD_BATCH = 3
PSIS = (0.5, 0.7, 1.0)


@dataclass(frozen=True)
class ParityReport:
    """The result of :func:`verify`. Distances that could not be computed (NaN, different shapes) are None.

    ``max_abs``, ``mean_abs``, ``p999_abs`` (the 99.9 % quantile), ``psnr_db`` and ``ssim`` compare the images clamped
    to [-1, 1] (PSNR for a range of 2; None for identical images). ``max_steps``, ``mean_steps``, ``p999_steps`` and
    ``differing`` compare them as 8-bit values. ``least_psnr_db`` and ``least_ssim`` are those of the worst image. If
    one artefact returns uint8, the other's images are truncated in the same way first, and all figures are of 8-bit
    values. ``precision`` is None if the caller passed a tolerance.
    """

    a: dict[str, Any]
    b: dict[str, Any]
    images: int
    psis: tuple[float, ...]
    seeds: tuple[int, int]  # first, last
    batches: tuple[int, ...]  # the batch sizes used
    precision: str | None
    tolerance: Tolerance
    checks: tuple[Check, ...]
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
    worst: Pair | None
    worst_list: tuple[ImageDistance, ...]
    layers: Bisection | None
    worst_images: tuple[Array, Array] | None = field(repr=False, compare=False)  # each [H, W, 3] in [-1, 1]

    @property
    def passed(self) -> bool:
        """Return whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def verdict(self) -> str:
        """Return the result as one line."""
        failed = sum(not check.passed for check in self.checks)
        if failed:
            return f"FAILED: {failed} of {len(self.checks)} checks"
        psis = ", ".join(f"{psi:g}" for psi in self.psis)
        within = f"the tolerance of {self.precision}" if self.precision else "the given tolerance"
        names = f"{self.b['name']} generates the same images as {self.a['name']}"
        return f"passed: {names}, within {within} ({self.images:,} images, psi {psis})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, without the pixels of the worst sample."""
        values = asdict(self)
        del values["worst_images"]
        worst = None if self.worst is None else {"seed": self.worst[0], "psi": self.worst[1]}
        layers = None if self.layers is None else self.layers.to_dict()
        return {"passed": self.passed, **values, "worst": worst, "layers": layers}

    def raise_for_failure(self) -> None:
        """Raise ParityError with every failed check and its numbers, unless all passed."""
        failed = [check.detail for check in self.checks if not check.passed]
        if failed:
            where = f" (worst: seed {self.worst[0]}, psi {self.worst[1]:g})" if self.worst else ""
            inside = f"; {self.layers.verdict}" if self.layers else ""
            if self.layers and self.layers.first is None:
                inside += ", so the cause is the runtime or a rare latent"
            raise ParityError(
                f"{self.a['name']} and {self.b['name']} differ{where}: {'; '.join(failed)}{inside}",
                "Run dcp-deploy verify A B --bisect --worst worst.png to see in which layer, and the images.",
            )

    def save_worst(self, path: str | os.PathLike[str]) -> Path | None:
        """Write the worst sample as a PNG: both images with their names, and the amplified difference.

        Return None if there are no images.
        """
        if self.worst_images is None or self.worst is None:
            return None
        stream = io.BytesIO()
        alike = self.a["name"] == self.b["name"]
        names = [f"{one['name']}, {one['backend']}" if alike else one["name"] for one in (self.a, self.b)]
        triplet(*self.worst_images, *self.worst, names).save(stream, format="PNG")
        write_bytes(path, stream.getbuffer())
        return Path(path)


def verify(
    a: Artifact,
    b: Artifact,
    *,
    latents: int = 256,
    psis: Sequence[float] = PSIS,
    seed: int = 0,
    batches: Sequence[int] | None = None,
    precision: str | None = None,
    tolerance: Tolerance | None = None,
    bisect: bool = False,
    progress: Progress | None = None,
) -> ParityReport:
    """Compare two artefacts on ``latents`` seeds from ``seed`` on, each at every psi; ``a`` is the reference.

    A file that takes ws or noise maps, or that was exported without noise, is compared with its network as
    :func:`~.artifacts.load_pair` describes.

    ``batches`` are the batch sizes, used in turn on one stream of pairs; by default the smallest and the largest that
    both artefacts declare (1 and 8 if they do not) and 3. ``tolerance`` is by default that of ``precision``, which is
    by default the coarser one of the two artefacts. ``bisect`` also compares the layers on the batch of the worst
    image, see :func:`~.bisect.bisect_layers`. ``progress`` counts pairs of images.

    Memory does not grow with the number of images. A difference does not raise: see
    :meth:`ParityReport.raise_for_failure`. Raises UsageError for settings that compare nothing, and for ``bisect`` on
    an artefact that does not show its layers.
    """
    first, second = load_pair(a, b)
    sizes = tuple(_batches(first, second) if batches is None else batches)
    if latents < 2 or not psis or not sizes or min(sizes) < 1 or not 0 <= seed <= 2**32 - latents:
        raise UsageError(
            f"latents {latents}, psis {tuple(psis)}, batches {sizes}, seed {seed} compare nothing",
            "Use 2 latents or more, at least one psi, batches of 1 or more, and a seed from 0 to 2^32 - latents.",
        )
    if tolerance is None:
        precision = precision or _precision(first, second)
        tolerance = tolerance_for(precision)
    else:
        precision = None
    pairs = [(seed + i, float(psi)) for i in range(latents) for psi in psis]
    stream = _compared(first, second, pairs, sizes, progress)
    found = stream.distances
    return ParityReport(
        a=_identity(first),
        b=_identity(second),
        images=found.images,
        psis=tuple(float(psi) for psi in psis),
        seeds=(seed, seed + latents - 1),
        batches=tuple(sorted(stream.batches)),
        precision=precision,
        tolerance=tolerance,
        checks=tuple(stream.checks(tolerance)),
        worst=(found.worst[0][1].seed, found.worst[0][1].psi) if found.worst else None,
        worst_list=tuple(image for _, image in found.worst),
        worst_images=found.worst_images,
        layers=bisect_layers(first, second, found.worst_batch, tolerance.layer) if bisect and found.worst else None,
        **found.figures(),
    )


def _compared(
    a: Runner, b: Runner, pairs: Sequence[Pair], sizes: Sequence[int], progress: Progress | None
) -> ImageStream:
    stream = ImageStream(a, b)
    if stream.comparable:
        for batch in cut(pairs, sizes):
            if not stream.compare(batch):
                break
            if progress:
                progress(min(stream.distances.images, len(pairs)), len(pairs))
    return stream


def _identity(runner: Runner) -> dict[str, Any]:
    return {"name": runner.name, "backend": runner.backend, "image": runner.image}


def _precision(*runners: Runner) -> str:
    """Return the coarsest precision that they declare ("fp16+fp32" is both). InputError for an unknown one."""
    declared = [(runner, word) for runner in runners for word in runner.facts.get("precision", "fp32").split("+")]
    for runner, word in declared:
        if word not in PRECISIONS:
            message = f"{runner.name} declares an unknown precision {word!r}"
            raise InputError(message, "Choose the limits with --precision.")
    order: tuple[str, ...] = PRECISIONS
    return max((word for _, word in declared), key=order.index)


def _batches(*runners: Runner) -> tuple[int, ...]:
    """Return the smallest and the largest batch that all runners take, and an odd one between, in ascending order."""
    bounds = [runner.batch for runner in runners if runner.batch is not None]
    least = max((low for low, _ in bounds), default=1)
    most = min((high for _, high in bounds), default=LARGEST_BATCH)
    if least > most:
        taken = " and ".join(f"{low} to {high}" for low, high in bounds)
        raise UsageError(f"no batch fits both artefacts: they take {taken}", "Export one of them for other batches.")
    return tuple(sorted({least, most, min(max(ODD_BATCH, least), most)}))


def cut(pairs: Sequence[Pair], sizes: Sequence[int]) -> Iterator[Sequence[Pair]]:
    """Yield batches of the sizes in turn. The last one may be smaller, but not below the smallest size.

    It is then filled up with pairs that were used before.
    """
    start, least = 0, min(min(sizes), len(pairs))
    for size in cycle(sizes):
        if start >= len(pairs):
            return
        batch = pairs[start : start + size]
        yield batch if len(batch) >= least else pairs[-least:]
        start += size
