"""The gate: two artefacts get the same latents and must draw the same images.

Every (seed, psi) pair is drawn by both sides in batches of changing size, with several psi within a batch, so an export
that works for one sample only, or that reads one psi for all, does not pass.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

from ...errors import InputError, ParityError, UsageError
from ...files import atomic_path
from ..runners.runner import Runner
from .artifacts import Artifact, load_pair
from .bisect import Bisection, bisect_layers
from .distances import Array, ImageDistance, Pair
from .image_stream import ImageStream
from .pictures import triplet
from .tolerance import PRECISIONS, Check, Precision, Tolerance, coarser, tolerance_for

LARGEST_BATCH = 8  # of an artefact that does not say how many images it takes at once
ODD_BATCH = 3


@dataclass(frozen=True)
class ParityReport:
    """What :func:`verify` found. Distances that could not be computed (NaN, unlike shapes) are None.

    ``max_abs``, ``mean_abs``, ``p999_abs`` (the 99.9 % quantile), ``psnr_db`` and ``ssim`` are of the images clamped to
    [-1, 1] (PSNR against the range of 2; None when the images are identical); ``max_steps``, ``mean_steps``,
    ``p999_steps``, ``differing`` of the images as 8-bit values. ``least_psnr_db`` and ``least_ssim`` are of the worst
    single image. When one side gives uint8, the other is truncated the same way first, and all figures are of 8-bit
    values. ``precision`` is None when the tolerance was the caller's own.
    """

    a: dict[str, Any]
    b: dict[str, Any]
    images: int
    psis: tuple[float, ...]
    seeds: tuple[int, int]  # first, last
    batches: tuple[int, ...]  # the sizes drawn
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
        layers = None if self.layers is None else self.layers.to_dict()
        return {"passed": self.passed, **values, "worst": worst, "layers": layers}

    def raise_for_failure(self) -> None:
        """Raise ParityError, naming every failed check with its numbers, unless the report passed."""
        failed = [check.detail for check in self.checks if not check.passed]
        if failed:
            where = f" (worst: seed {self.worst[0]}, psi {self.worst[1]:g})" if self.worst else ""
            inside = f"; {self.layers.verdict}" if self.layers else ""
            if self.layers and self.layers.first is None:
                inside += ", so look at what runs the network or at a rare latent"
            raise ParityError(
                f"{self.a['name']} and {self.b['name']} differ{where}: {'; '.join(failed)}{inside}",
                "dcp-deploy verify A B --bisect --worst worst.png shows in which layer, and the images.",
            )

    def save_worst(self, path: str | os.PathLike[str]) -> Path | None:
        """Write the worst sample as a PNG: a, b, and their difference amplified. None when nothing could be drawn."""
        if self.worst_images is None or self.worst is None:
            return None
        with atomic_path(path) as temporary:
            triplet(*self.worst_images, *self.worst).save(temporary, format="PNG")
        return Path(path)


def verify(
    a: Artifact,
    b: Artifact,
    *,
    latents: int = 256,
    psis: Sequence[float] = (0.5, 0.7, 1.0),
    seed: int = 0,
    batches: Sequence[int] | None = None,
    precision: str | None = None,
    tolerance: Tolerance | None = None,
    bisect: bool = False,
) -> ParityReport:
    """Compare two artefacts on ``latents`` seeds from ``seed`` on, each at every psi; ``a`` is the reference.

    A file that takes codes or noise maps, or was exported without noise, is compared with its network by what
    :func:`~.pairs.load_pair` makes of the two.

    ``batches``: the sizes in which the images are drawn, in turn, from one stream of pairs; by default the smallest and
    the largest that both sides declare (1 and 8 where they do not) and 3. ``tolerance``: by default that of
    ``precision``, which in turn is by default the coarser of what the two declare. ``bisect`` compares the layers too,
    on the batch of the worst image: :func:`~.bisect.bisect_layers`.

    Memory does not grow with the number of images. Does not raise for a difference: see
    :meth:`ParityReport.raise_for_failure`. UsageError for settings that compare nothing, and for ``bisect`` on
    something that has no layers to look at.
    """
    first, second = load_pair(a, b)
    sizes = tuple(_batches(first, second) if batches is None else batches)
    if latents < 2 or not psis or not sizes or min(sizes) < 1 or not 0 <= seed <= 2**32 - latents:
        raise UsageError(
            f"latents {latents}, psis {tuple(psis)}, batches {sizes}, seed {seed} compare nothing",
            "use 2 latents or more, at least one psi, batches of 1 or more, and a seed from 0 to 2^32 - latents",
        )
    if tolerance is None:
        precision = precision or _precision(first, second)
        tolerance = tolerance_for(precision)
    else:
        precision = None
    stream = _compared(first, second, [(seed + i, float(psi)) for i in range(latents) for psi in psis], sizes)
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


def _compared(a: Runner, b: Runner, pairs: Sequence[Pair], sizes: Sequence[int]) -> ImageStream:
    stream = ImageStream(a, b)
    if stream.comparable:
        for batch in _cut(pairs, sizes):
            if not stream.compare(batch):
                break
    return stream


def _identity(runner: Runner) -> dict[str, Any]:
    return {"name": runner.name, "backend": runner.backend, "image": runner.image}


def _precision(*runners: Runner) -> Precision:
    """The coarsest of what they declare ("fp16+fp32" is both). InputError for a word that is no precision of ours."""
    found: Precision = "fp32"
    for runner in runners:
        for word in runner.facts.get("precision", "fp32").split("+"):
            if word not in PRECISIONS:
                raise InputError(
                    f"{runner.name} says that its precision is {word!r}", "say whose limits hold: --precision"
                )
            found = coarser(found, word)
    return found


def _batches(*runners: Runner) -> tuple[int, ...]:
    """The smallest and the largest batch that all of them take, and an odd one between, in ascending order."""
    bounds = [runner.batch for runner in runners if runner.batch is not None]
    least = max((low for low, _ in bounds), default=1)
    most = min((high for _, high in bounds), default=LARGEST_BATCH)
    if least > most:
        raise UsageError(f"no batch fits both: they take {' and '.join(f'{low} to {high}' for low, high in bounds)}")
    return tuple(sorted({least, most, min(max(ODD_BATCH, least), most)}))


def _cut(pairs: Sequence[Pair], sizes: Sequence[int]) -> Iterator[Sequence[Pair]]:
    """Batches of the sizes in turn; what is left at the end makes a smaller one, but none below the smallest size.

    It then takes pairs that were drawn before.
    """
    start, least = 0, min(min(sizes), len(pairs))
    for size in cycle(sizes):
        if start >= len(pairs):
            return
        batch = pairs[start : start + size]
        yield batch if len(batch) >= least else pairs[-least:]
        start += size
