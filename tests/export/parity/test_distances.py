from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from dcp_deploy.export.parity.distances import WORST, Distances, psnr, ssim


def ssim_by_definition(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004 in float64 with scipy's filters; the image is mirrored at its border."""
    values = []
    for x, y in zip(np.moveaxis(a, -1, 0).astype(float), np.moveaxis(b, -1, 0).astype(float), strict=True):

        def mean(image: np.ndarray) -> np.ndarray:
            return ndimage.gaussian_filter(image, 1.5, truncate=3.5, mode="mirror")  # radius 5: 11x11

        mx, my = mean(x), mean(y)
        vx, vy, vxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
        c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
        values.append(((2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())
    return float(np.mean(values))


def pairs(size: int, noise: float, count: int = 2) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    a = ndimage.gaussian_filter(random.standard_normal((count, size, size, 3)), (0, 2, 2, 0)).astype(np.float32)
    b = a + noise * random.standard_normal(a.shape)
    return np.clip(a, -1, 1), np.clip(b, -1, 1).astype(np.float32)


def added(distances: Distances, a: np.ndarray, b: np.ndarray, first_seed: int = 0) -> None:
    broken = ~(np.isfinite(a) & np.isfinite(b))
    steps = np.nan_to_num(np.abs(np.round(127.5 * a) - np.round(127.5 * b))).astype(np.int16)
    distances.add(a, b, steps, broken, [(first_seed + i, 1.0) for i in range(len(a))])


@pytest.mark.parametrize("noise", [0.01, 0.1, 1.0])
def test_ssim_follows_its_definition(noise: float) -> None:
    a, b = pairs(32, noise)
    expected = [ssim_by_definition(*images) for images in zip(a, b, strict=True)]
    assert ssim(a, b) == pytest.approx(expected, abs=1e-4)  # float32 there, differences of squares


@pytest.mark.parametrize("noise", [0.0, 1e-5, 0.3])
def test_ssim_agrees_with_torchmetrics(noise: float) -> None:
    from torchmetrics.functional.image import structural_similarity_index_measure

    a, b = pairs(48, noise, count=3)
    a[2], b[2] = 0.25, 0.25 + noise  # constant images
    tensors = (torch.from_numpy(images).permute(0, 3, 1, 2) for images in (a, b))
    expected = structural_similarity_index_measure(*tensors, data_range=2.0, reduction="none")
    assert ssim(a, b) == pytest.approx(expected.numpy(), abs=1e-4)  # float32, differences of squares


def test_ssim_of_large_images_is_that_of_their_averages() -> None:
    a, b = pairs(512, 0.1, count=1)
    small = [image.reshape(1, 256, 2, 256, 2, 3).mean(axis=(2, 4)) for image in (a, b)]
    assert ssim(a, b) == pytest.approx(ssim(*small), abs=1e-5)


def test_ssim_of_images_smaller_than_its_window_is_not_known() -> None:
    assert np.isnan(ssim(*pairs(8, 0.1))).all()


def test_the_quantile_is_that_of_all_values_within_a_hundredth() -> None:
    distances, seen = Distances(), []
    for seed, noise in enumerate((1e-4, 1e-2, 0.3)):
        a, b = pairs(32, noise)
        added(distances, a, b, 10 * seed)
        seen.append(np.abs(a - b))
    exact = np.quantile(np.concatenate(seen), 0.999, method="higher")
    assert exact <= distances.p999_abs <= (1 + 1 / 128) * exact  # 128 bins from a power of two to the next


def test_the_worst_images_are_listed_in_order() -> None:
    distances = Distances()
    noises = [0.1, 0.5, 0.01, 0.3, 0.02, 0.9, 0.05, 0.04, 0.03, 0.2]
    for seed, noise in enumerate(noises):
        added(distances, *pairs(16, noise, count=1), seed)
    assert [image.seed for _, image in distances.worst] == list(np.argsort(noises)[::-1][:WORST])
    assert distances.worst_batch == ((5, 1.0),)
    assert distances.least_psnr == pytest.approx(distances.worst[0][1].psnr_db)


def test_values_that_are_no_numbers_are_the_worst_and_have_no_figures() -> None:
    distances = Distances()
    a, b = pairs(16, 0.1)
    b[1, 3, 3, 0] = np.nan
    added(distances, a, b)
    added(distances, *pairs(16, 0.9), 2)
    worst = distances.worst[0][1]
    assert worst.seed == 1
    assert (worst.max_abs, worst.mean_abs, worst.psnr_db, worst.ssim) == (None,) * 4
    assert np.isnan(distances.least_ssim) and distances.least_psnr == -np.inf
    assert set(distances.figures().values()) == {None}


def test_psnr_is_against_the_range_of_two() -> None:
    assert psnr(4e-4) == pytest.approx(40)
    assert psnr(0.0) == np.inf
