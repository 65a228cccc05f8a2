"""Trials of an int8 plan: changed graphs in ONNX Runtime, their images against the exact ones, and the search.

Two questions, at different cost. How large an error is, to rank layers, takes a few images at the psi where errors are
largest (:meth:`Trials.least_psnr`). Whether a file passes the gate takes all images and all checks
(:meth:`Trials.judge`). It ends early only when the worst image is beyond a limit, since it then fails whatever the
others are like. That image comes first in the next trial.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...progress import Progress
from ..parity.gate import cut
from ..parity.image_stream import ImageStream
from ..parity.tolerance import Tolerance
from ..runners.loading import load_runner
from ..runners.runner import Array, Runner, classes_of, in_parts, latents_of

if TYPE_CHECKING:
    import onnx

BATCHES = (1, 3, 8)  # as the gate's, the smallest first: a bad trial mostly ends with the first image


@dataclass(frozen=True)
class Verdict:
    """Whether a trial passed, and the PSNR of its images in dB, None for identical ones and for a failure."""

    passed: bool
    psnr_db: float | None


class Trials:
    """Compares changed graphs of ``model`` with it: ``latents`` seeds from ``seed`` on, each at every psi.

    ``folder`` holds the files. The images of ``model`` are kept, float32 or uint8 as it returns them.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path, latents: int, psis: Sequence[float], seed: int) -> None:
        self._path = folder / "trial.onnx"
        self._exact = _remembering(self._opened(model))
        self._hardest = [(seed + index, float(max(psis))) for index in range(latents)]
        # Those of the largest psi first: they differ most.
        self._images = [(s, float(psi)) for psi in sorted(psis, reverse=True) for s, _ in self._hardest]

    def _opened(self, model: onnx.ModelProto) -> Runner:
        self._path.write_bytes(model.SerializeToString())
        return load_runner(self._path)

    def least_psnr(self, changed: onnx.ModelProto, seeds: int | None = None) -> float:
        """Return the PSNR in dB of the worst image at the largest psi, of all or the first ``seeds`` ones.

        It is over the range of the images, [-1, 1] or 0 to 255; 0 dB if values are not finite.
        """
        trial, exact = self._opened(changed), self._exact
        peak, floor = (255.0, 0.0) if exact.image == "uint8" else (1.0, -1.0)
        worst = 1e-12
        for seed, psi in self._hardest[:seeds]:
            inputs = (latents_of([seed], exact.z_dim), psi, classes_of([seed], exact.c_dim))
            a, b = (np.clip(runner(*inputs).astype(np.float64), floor, peak) for runner in (exact, trial))
            square = float(np.square(a - b).mean())
            worst = max(worst, square if math.isfinite(square) else (peak - floor) ** 2)
        return 10 * math.log10((peak - floor) ** 2 / worst)

    def judge(self, changed: onnx.ModelProto, limits: Tolerance) -> Verdict:
        """Return whether the graph passes the gate on all images."""
        stream = ImageStream(self._exact, self._opened(changed))
        for batch in cut(self._images, BATCHES):
            if not stream.compare(batch):
                return Verdict(False, None)
            if stream.lost(limits):
                _, found = stream.distances.worst[0]
                self._images.sort(key=lambda pair: pair != (found.seed, found.psi))
                return Verdict(False, None)
        passed = all(check.passed for check in stream.checks(limits))
        return Verdict(passed, stream.distances.figures()["psnr_db"] if passed else None)


def _remembering(runner: Runner) -> Runner:
    """Return the runner with a cache of its images, which it generates one by one."""
    kept: dict[bytes, Array] = {}

    def image(z: Array, psi: Array, c: Array | None) -> Array:
        key = z.tobytes() + psi.tobytes()  # classes follow from the seed
        if key not in kept:
            kept[key] = runner.draw(z, psi, c)
        return kept[key]

    return replace(runner, draw=in_parts(image, 1))


def leave_out(
    order: Sequence[str],
    compare: Callable[[Collection[str]], Verdict],
    *,
    least: int = 0,
    progress: Progress | None = None,
) -> tuple[tuple[str, ...], Verdict] | None:
    """Return the layers that stay float32, and the verdict of ``compare`` without them.

    They are taken from the front of ``order`` until it passes, ``least`` at once. Then each one before the last is
    removed again if it still passes. Returns None if it fails even with a single layer left. ``progress`` counts
    trials of at most twice as many as layers.
    """
    tried = 0

    def counted(left_out: tuple[str, ...]) -> Verdict:
        nonlocal tried
        verdict = compare(left_out)
        tried += 1
        if progress:
            progress(tried, 2 * len(order))
        return verdict

    for count in range(least, len(order)):
        left_out = tuple(order[:count])
        verdict = counted(left_out)
        if verdict.passed:
            break
    else:
        return None
    for layer in left_out[-2::-1]:  # backwards, because the last one saves most
        fewer = tuple(kept for kept in left_out if kept != layer)
        again = counted(fewer)
        if again.passed:
            left_out, verdict = fewer, again
    return left_out, verdict
