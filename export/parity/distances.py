"""Distances between two streams of images, in memory that does not grow with their number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

Array = npt.NDArray[Any]
Pair = tuple[int, float]  # (seed, psi)

STEP = 1 / 127.5  # one 8-bit step in units of [-1, 1]
QUANTILE = 0.999
WORST = 8  # number of worst images that are listed
SSIM_SIDE = 256  # larger images are averaged down to about this before SSIM
SSIM_WINDOW = 11


@dataclass(frozen=True)
class ImageDistance:
    """Distances of one image pair. None means not finite: ``psnr_db`` of identical, ``ssim`` of small images too."""

    seed: int
    psi: float
    max_abs: float | None
    mean_abs: float | None
    psnr_db: float | None
    ssim: float | None
    max_steps: int


class Distances:
    """Sums, maxima and histograms over pairs of images, and the worst few images by mean square error."""

    def __init__(self) -> None:
        self.images = self.values = self.differing = self.max_steps = 0
        self.sum_abs = self.sum_square = self.sum_ssim = self.max_abs = 0.0
        self.least_psnr = self.least_ssim = math.inf
        self.unlike: Pair | None = None  # the image with the least SSIM
        self.worst: list[tuple[float, ImageDistance]] = []  # (mean square error, the image), the worst first
        self.worst_images: tuple[Array, Array] | None = None
        self.worst_batch: tuple[Pair, ...] = ()
        self._abs_histogram = np.zeros(2**15, np.int64)  # by the upper half of a float32: 128 bins per octave
        self._step_histogram = np.zeros(256, np.int64)

    def add(self, a: Array, b: Array, steps: Array, broken: Array, batch: Sequence[Pair]) -> None:
        """Add a batch: images [B, H, W, 3] float32 in [-1, 1], 8-bit differences, and where values are not finite."""
        difference = np.abs(a - b)
        difference[broken] = np.inf
        self.images += len(batch)
        self.values += difference.size
        self.sum_abs += float(difference.sum(dtype=np.float64))
        self.max_abs = max(self.max_abs, float(difference.max()))
        self.max_steps = max(self.max_steps, int(steps.max()))
        self.differing += int(np.count_nonzero(steps))
        self._abs_histogram += np.bincount((difference.view(np.uint32) >> 16).ravel(), minlength=2**15)
        self._step_histogram += np.bincount(steps.ravel(), minlength=256)
        squares = np.square(difference, dtype=np.float64).reshape(len(batch), -1).mean(axis=1)
        likeness = ssim(a, b)
        for index, pair in enumerate(batch):
            alike = float(likeness[index]) if math.isfinite(squares[index]) else math.nan
            found = _one(pair, difference[index], float(squares[index]), alike, int(steps[index].max()))
            self._rank(float(squares[index]), found, (a[index], b[index]), batch)
            self._sum(float(squares[index]), alike, pair)

    def _sum(self, square: float, alike: float, pair: Pair) -> None:
        self.sum_square += square
        self.least_psnr = min(self.least_psnr, psnr(square))
        self.sum_ssim += alike
        if alike < self.least_ssim or (math.isnan(alike) and not math.isnan(self.least_ssim)):  # NaN comes in and stays
            self.least_ssim, self.unlike = alike, pair

    def _rank(self, square: float, found: ImageDistance, images: tuple[Array, Array], batch: Sequence[Pair]) -> None:
        if not self.worst or square > self.worst[0][0]:
            self.worst_images, self.worst_batch = (images[0].copy(), images[1].copy()), tuple(batch)
        self.worst.append((square, found))
        self.worst.sort(key=lambda entry: -entry[0])
        del self.worst[WORST:]

    @property
    def finite(self) -> bool:
        """Return whether something was compared and all of it is finite."""
        return self.values > 0 and math.isfinite(self.max_abs)

    @property
    def p999_abs(self) -> float:
        """Return the 99.9 % quantile of the differences, rounded up by less than 1 %."""
        index = _quantile(self._abs_histogram)
        edge = np.array((index + 1) << 16, np.uint32).view(np.float32) if index else 0.0
        return min(float(edge), self.max_abs)

    def figures(self) -> dict[str, Any]:
        """Return the measured fields of the report; None where they could not be computed."""
        names = ("max_abs", "mean_abs", "p999_abs", "psnr_db", "least_psnr_db", "ssim", "least_ssim")
        steps = ("max_steps", "mean_steps", "p999_steps", "differing")
        if not self.finite:
            return dict.fromkeys((*names, *steps))
        step_sum = float(self._step_histogram @ np.arange(256))
        found = (
            self.max_abs, self.sum_abs / self.values, self.p999_abs, psnr(self.sum_square / self.images),
            self.least_psnr, self.sum_ssim / self.images, self.least_ssim,
        )  # fmt: skip
        p999_steps = _quantile(self._step_histogram)
        counted = (self.max_steps, step_sum / self.values, p999_steps, self.differing / self.values)
        numbers = (value if math.isfinite(value) else None for value in found)
        return {**dict(zip(names, numbers, strict=True)), **dict(zip(steps, counted, strict=True))}


def psnr(mean_square: float) -> float:
    """Return the peak signal-to-noise ratio in dB for a range of 2: infinity if identical, -infinity for NaN."""
    if mean_square == 0:
        return math.inf
    return 10 * math.log10(4 / mean_square) if math.isfinite(mean_square) else -math.inf


def ssim(a: Array, b: Array) -> npt.NDArray[np.float64]:
    """Return the structural similarity of each image pair: [B, H, W, 3] in [-1, 1] -> [B].

    As in Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity": Gaussian window
    11x11 of 1.5, K 0.01 and 0.03, mirrored at the image's border. Images above 256 px are averaged over squares until
    the shorter side has about that size, as the authors recommend. NaN for images smaller than the window. The window
    is applied as a row and then a column: 22 products for each value instead of 121.
    """
    size = min(a.shape[1:3])
    if size < SSIM_WINDOW:
        return np.full(len(a), np.nan)
    found = np.empty(len(a))
    for index in range(len(a)):  # one at a time, because five filtered copies are held
        first, second = (torch.from_numpy(np.nan_to_num(images[index])).permute(2, 0, 1)[None] for images in (a, b))
        if size > SSIM_SIDE:
            factor = round(size / SSIM_SIDE)
            first, second = F.avg_pool2d(first, factor), F.avg_pool2d(second, factor)
        found[index] = float(_ssim_of(first, second))
    return found


def _ssim_of(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the similarity of two images [1, 3, H, W] of range 2, a scalar."""
    border = SSIM_WINDOW // 2
    taps = torch.exp(-((torch.arange(SSIM_WINDOW) - border) ** 2) / (2 * 1.5**2))
    taps = taps / taps.sum()
    values = F.pad(torch.cat([a, b, a * a, b * b, a * b], dim=1), (border,) * 4, mode="reflect")
    count = values.shape[1]
    rows, columns = taps.expand(count, 1, 1, -1), taps[:, None].expand(count, 1, -1, 1)
    means = F.conv2d(F.conv2d(values, rows, groups=count), columns, groups=count)
    a, b, aa, bb, ab = means.chunk(5, dim=1)
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    variances = (aa - a * a).clamp_min(0) + (bb - b * b).clamp_min(0)
    return ((2 * a * b + c1) * (2 * (ab - a * b) + c2) / ((a * a + b * b + c1) * (variances + c2))).mean()


def _one(pair: Pair, difference: Array, square: float, alike: float, steps: int) -> ImageDistance:
    figures = (float(difference.max()), float(difference.mean(dtype=np.float64)), psnr(square), alike)
    largest, mean, ratio, likeness = (value if math.isfinite(value) else None for value in figures)
    return ImageDistance(*pair, largest, mean, ratio, likeness, steps)


def _quantile(histogram: npt.NDArray[np.int64]) -> int:
    """Return the first bin up to which the quantile of all values lie."""
    return int(np.searchsorted(np.cumsum(histogram), QUANTILE * histogram.sum()))
