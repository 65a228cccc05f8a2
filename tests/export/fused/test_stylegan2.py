"""Features of StyleGAN2 only: two up-sampling methods, noise, and styles of any size."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dcp_deploy.export.fused.generator import FusedGenerator
from dcp_deploy.export.fused.stylegan2 import Upsample, polyphase_weight
from dcp_deploy.generators import Generator
from dcp_deploy.generators.ops import upsample_conv2d

from ..conftest import random_generator

FORMS: tuple[Upsample, ...] = ("transposed", "polyphase")
TOLERANCE = 1e-5  # float32, images of magnitude 1 to 4: two orders of summation


def latents(batch: int) -> torch.Tensor:
    return torch.randn(batch, 12, generator=torch.Generator().manual_seed(batch))


@pytest.mark.parametrize("upsample", FORMS)
@pytest.mark.parametrize("name", ["sg2ada_32", "sg2ada_32_cond_clamp"])
def test_both_forms_and_no_noise_draw_the_golden_images(
    name: str,
    upsample: Upsample,
    golden: Callable[[str], Mapping[str, np.ndarray]],
    golden_generator: Callable[[str], Generator],
) -> None:
    data, generator = golden(name), golden_generator(name)
    z = torch.from_numpy(data["z"]).float()
    c = torch.from_numpy(data["c"]).float() if "c" in data else None
    for noise in ("const", "none"):
        image = FusedGenerator(generator, upsample=upsample, noise=noise)(z, torch.ones(len(z)), c)  # type: ignore[arg-type]
        assert np.abs(image.numpy() - data[f"img_{noise}"]).max() < 2e-5  # tolerance of the golden data itself


@settings(max_examples=25, deadline=None)
@given(
    widths=st.integers(1, 4).flatmap(lambda n: st.lists(st.integers(1, 9), min_size=2 * n, max_size=2 * n)),
    exponent=st.integers(-4, 4),
    batch=st.integers(1, 3),
    upsample=st.sampled_from(FORMS),
    clamp=st.sampled_from([None, 0.7]),
    base=st.sampled_from([(4, 4), (4, 2), (3, 5)]),
    seed=st.integers(0, 1000),
)
def test_any_widths_and_style_scales(
    widths: list[int],
    exponent: int,
    batch: int,
    upsample: Upsample,
    clamp: float | None,
    base: tuple[int, int],
    seed: int,
) -> None:
    generator = random_generator(tuple(widths), seed=seed, scale=10.0**exponent, conv_clamp=clamp, base=base)
    z = latents(batch)
    expected = generator(z, psi=0.8)
    image = FusedGenerator(generator, upsample=upsample)(z, torch.full((batch,), 0.8))
    # Relative to the image: with few channels of random weights its magnitude reaches 50.
    assert (image - expected).abs().max() < TOLERANCE * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("scale", [1e-30, 1e15])
def test_styles_far_outside_the_range_of_float16_give_finite_images(scale: float) -> None:
    generator = random_generator((6, 5, 4, 3), scale=scale)
    assert FusedGenerator(generator)(latents(2), torch.ones(2)).isfinite().all()


def test_what_enters_a_convolution_does_not_grow_with_the_styles(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def watched(convolution: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def call(x: torch.Tensor, weight: torch.Tensor, **kwargs: object) -> torch.Tensor:
            seen.append(float(x.abs().max()))
            return convolution(x, weight, **kwargs)

        return call

    fused = [
        FusedGenerator(random_generator((6, 5, 4, 3), scale=scale), upsample=form)
        for scale in (1.0, 1e4)
        for form in FORMS
    ]
    for name in ("conv2d", "conv_transpose2d"):
        monkeypatch.setattr(torch.nn.functional, name, watched(getattr(torch.nn.functional, name)))
    for generator in fused:
        generator(latents(2), torch.ones(2))
    half = len(seen) // 2
    assert seen[half:] == pytest.approx(seen[:half], rel=1e-4)


def test_zero_styles_leave_noise_and_bias() -> None:
    generator = random_generator((4, 3, 5, 2), scale=0.0)
    z = latents(2)
    image = FusedGenerator(generator)(z, torch.ones(2))
    assert (image - generator(z)).abs().max() < TOLERANCE


def test_polyphase_is_transposed_convolution_and_fir() -> None:
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 3, 3, 3, dtype=torch.float64, generator=random)
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64, generator=random)
    phases = torch.nn.functional.conv2d(x, polyphase_weight(weight), padding=1)
    y = torch.nn.functional.pixel_shuffle(phases, 2)
    # float64: the identity is exact, so the tolerance is rounding only.
    torch.testing.assert_close(y, upsample_conv2d(x, weight), rtol=0, atol=1e-12)
