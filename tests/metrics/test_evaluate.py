"""Complete evaluations: the noise floor of the data, how worse images score, and impossible inputs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module

import numpy as np
import pytest
import torch

from dcp_deploy.datasets.factors import FACTOR_INDEX, Factors, factors_from_uniforms, sample_factors
from dcp_deploy.datasets.portrait import avatars, render
from dcp_deploy.errors import QualityError, UsageError
from dcp_deploy.generators import Generator, GeneratorConfig
from dcp_deploy.metrics import Metrics, distances, evaluate, evaluate_images
from dcp_deploy.metrics.drawing import to_8_bit
from dcp_deploy.metrics.features import images_to_tensor

evaluation = import_module("dcp_deploy.metrics.evaluate")  # metrics.evaluate is the function

COUNT = 1000
FRESH = np.arange(50_000, 50_000 + COUNT)  # disjoint from the reference images
FID_FLOOR = 0.7  # 0.61 measured for 1000 fresh images against 2000; the total variance of the features is 61


@pytest.fixture(scope="module", autouse=True)
def small_reference() -> Iterator[None]:
    """Use 2000 real images instead of 10,000 and 2 subsets for KID instead of 100: enough here, and much faster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "REFERENCE_SAMPLES", 2000)
        patch.setattr(distances, "kernel_distance", partial(distances.kernel_distance, subsets=2))
        evaluation._reference.cache_clear()
        yield
    evaluation._reference.cache_clear()


@dataclass
class FakeRunner:
    """Runner that renders avatars whose uniforms are the normal CDF of the latents; it counts its calls."""

    image: str = "uint8"
    z_dim: int = 15
    c_dim: int = 0
    image_size: tuple[int, int] = (64, 64)
    spoil: float = 0.0
    calls: int = 0

    def __call__(self, *, z: np.ndarray, psi: np.ndarray) -> np.ndarray:
        from scipy.special import ndtr

        assert z.dtype == np.float32 and psi.dtype == np.float32 and psi.shape == (len(z),)
        self.calls += 1
        images = render(factors_from_uniforms(ndtr((z * psi[:, None]).astype(np.float64))))
        if self.image == "uint8":
            return images
        return images.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1.0 + self.spoil


def test_the_data_score_near_perfect() -> None:
    metrics = evaluate_images(avatars(FRESH))
    assert metrics.fid < FID_FLOOR
    assert metrics.precision > 0.8 and metrics.recall > 0.8  # 0.92 and 0.93 measured
    assert metrics.density == pytest.approx(1.0, abs=0.1)  # 0.95
    assert metrics.coverage > 0.93  # 0.97
    assert metrics.mode_coverage > 0.99  # 1.00
    assert metrics.frequency_error < 0.05  # 0.043
    assert all(0.6 < ratio < 1.4 for ratio in metrics.rare.values())  # 0.92 to 1.24: a standard error is 0.14


def test_a_lost_mode_lowers_its_rate_and_mode_coverage() -> None:
    table = sample_factors(FRESH).table.copy()
    table[:, FACTOR_INDEX["hat"]] = 0.0
    metrics = evaluate_images(render(Factors(table)))
    assert metrics.rare["hat=top_hat"] < 0.05
    assert metrics.mode_coverage < 0.95  # 0.90 measured


def test_slight_noise_or_blur_raises_the_distance() -> None:
    images = images_to_tensor(avatars(FRESH))
    noise = 0.05 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    blurred = torch.lerp(images, torch.nn.functional.avg_pool2d(images, 3, stride=1, padding=1), 0.5)
    for worse in (images + noise, blurred):
        as_bytes = ((worse.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
        assert evaluate_images(as_bytes.numpy()).fid > 3 * FID_FLOOR  # 3.14 and 2.44 measured


def test_images_other_than_portraits_have_no_precision() -> None:
    noise = np.random.default_rng(0).integers(0, 256, size=(500, 64, 64, 3), dtype=np.uint8)
    metrics = evaluate_images(noise)
    assert metrics.fid > 30 * FID_FLOOR
    assert metrics.precision < 0.05 and metrics.coverage < 0.05


@pytest.fixture(scope="module")
def plain() -> tuple[FakeRunner, Metrics]:
    """Return a runner and its metrics at the default settings but 500 samples."""
    runner = FakeRunner()
    return runner, evaluate(runner, samples=500)


def test_the_batch_size_does_not_change_the_latents(plain: tuple[FakeRunner, Metrics]) -> None:
    (first, small), second = plain, FakeRunner()
    large = evaluate(second, samples=500, batch=500)
    assert (first.calls, second.calls) == (8, 1)
    assert small.fid == pytest.approx(large.fid, rel=1e-4)  # only rounding in the reader's kernels
    assert small.rare == large.rare


def test_float_and_byte_outputs_measure_the_same(plain: tuple[FakeRunner, Metrics]) -> None:
    assert evaluate(FakeRunner("float"), samples=500) == plain[1]


def test_another_seed_gives_other_images(plain: tuple[FakeRunner, Metrics]) -> None:
    assert evaluate(FakeRunner(), samples=500, seed=1).fid != plain[1].fid


def test_truncation_costs_diversity(plain: tuple[FakeRunner, Metrics]) -> None:
    full, tight = plain[1], evaluate(FakeRunner(), samples=500, psi=0.5)
    assert tight.psi == 0.5
    assert tight.coverage < full.coverage and tight.fid > full.fid


def test_a_torch_generator_is_measured_with_progress() -> None:
    config = GeneratorConfig(resolution=64, z_dim=8, w_dim=8, mapping_layers=1, widths=(4,) * 10)
    torch.manual_seed(0)
    calls: list[tuple[int, int]] = []
    metrics = evaluate(
        Generator(config), samples=500, batch=200, progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(200, 500), (400, 500), (500, 500)]
    assert metrics.fid > 10 * FID_FLOOR  # untrained


def test_metrics_are_json_without_nan(plain: tuple[FakeRunner, Metrics]) -> None:
    text = json.dumps(plain[1].to_dict(), allow_nan=False)
    assert json.loads(text)["features"] == "avatars"


@pytest.mark.parametrize("settings", [{"samples": 10}, {"samples": 10**6}, {"batch": 0}], ids=str)
def test_wrong_settings_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        evaluate(FakeRunner(), **settings)


@pytest.mark.parametrize(("field", "value"), [("image_size", (256, 256)), ("c_dim", 3)])
def test_models_of_other_data_are_refused(field: str, value: int) -> None:
    runner = FakeRunner()
    setattr(runner, field, value)
    with pytest.raises(UsageError, match="64 px"):
        evaluate(runner, samples=500)


def test_nan_images_are_refused() -> None:
    with pytest.raises(QualityError, match="NaN"):
        evaluate(FakeRunner("float", spoil=float("nan")), samples=500)


def test_rounding_to_8_bits_keeps_every_level() -> None:
    levels = torch.arange(256).float() / 127.5 - 1.0
    assert torch.equal(to_8_bit(levels), levels)
    assert torch.equal(to_8_bit(levels + 0.003), levels)  # less than half a step of 0.0078
    assert to_8_bit(torch.tensor([-3.0, 3.0])).tolist() == [-1.0, 1.0]


@pytest.mark.gpu
def test_a_gpu_measures_the_same_as_the_cpu() -> None:
    config = GeneratorConfig(resolution=64, z_dim=8, w_dim=8, mapping_layers=1, widths=(4,) * 10)
    torch.manual_seed(0)
    generator = Generator(config)
    slow, fast = evaluate(generator, samples=500), evaluate(generator.cuda(), samples=500)
    assert fast.fid == pytest.approx(slow.fid, rel=1e-2)  # TensorFloat-32 convolutions
    assert fast.coverage == pytest.approx(slow.coverage, abs=0.02)
