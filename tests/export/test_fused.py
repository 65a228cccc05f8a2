from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dcp_deploy.errors import UsageError
from dcp_deploy.export.fused import FusedGenerator, Upsample, polyphase_weight, to_uint8
from dcp_deploy.generators import Generator
from dcp_deploy.generators.ops import upsample_conv2d

from .conftest import GOLDEN, random_generator

FORMS: tuple[Upsample, ...] = ("transposed", "polyphase")
TOLERANCE = 1e-5  # float32, images of magnitude 1 to 4: two orders of summation


def inputs(generator: Generator, batch: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    config = generator.config
    z = torch.randn(batch, config.z_dim, generator=torch.Generator().manual_seed(batch))
    return z, torch.eye(config.c_dim)[torch.arange(batch) % config.c_dim] if config.c_dim else None


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("upsample", FORMS)
@pytest.mark.parametrize("network", ["unconditional", "conditional"])
def test_draws_what_the_readable_generator_draws(
    network: str, upsample: Upsample, batch: int, request: pytest.FixtureRequest
) -> None:
    generator: Generator = request.getfixturevalue(network)
    z, c = inputs(generator, batch)
    fused = FusedGenerator(generator, upsample=upsample)
    for psi in (0.0, 0.5, 0.7, 1.0, 1.3):
        difference = fused(z, torch.full((batch,), psi), c) - generator(z, c, psi=psi)
        assert difference.abs().max() < TOLERANCE


@pytest.mark.parametrize("upsample", FORMS)
@pytest.mark.parametrize("network", ["sg2ada_32", "sg2ada_32_cond_clamp"])
def test_draws_the_golden_images(network: str, upsample: Upsample, request: pytest.FixtureRequest) -> None:
    generator: Generator = request.getfixturevalue("conditional" if "cond" in network else "unconditional")
    data = np.load(GOLDEN / f"{network}.npz")
    z = torch.from_numpy(data["z"]).float()
    c = torch.from_numpy(data["c"]).float() if "c" in data.files else None
    fused = FusedGenerator(generator, upsample=upsample)
    for psi, key in ((1.0, "img_const"), (0.7, "img_const_psi0.7")):
        image = fused(z, torch.full((len(z),), psi), c)
        assert np.abs(image.numpy() - data[key]).max() < 2e-5  # tolerance of the golden data itself
    image = FusedGenerator(generator, upsample=upsample, noise="none")(z, torch.ones(len(z)), c)
    assert np.abs(image.numpy() - data["img_none"]).max() < 2e-5


def test_psi_is_taken_per_sample(unconditional: Generator) -> None:
    z, _ = inputs(unconditional, 5)
    psi = torch.tensor([0.0, 0.3, 0.7, 1.0, 1.2])
    together = FusedGenerator(unconditional)(z, psi)
    for row in range(5):
        alone = unconditional(z[row : row + 1], psi=float(psi[row]))
        assert (together[row] - alone[0]).abs().max() < TOLERANCE


@settings(max_examples=25, deadline=None)
@given(
    widths=st.integers(1, 4).flatmap(lambda n: st.lists(st.integers(1, 9), min_size=2 * n, max_size=2 * n)),
    exponent=st.integers(-4, 4),
    batch=st.integers(1, 3),
    upsample=st.sampled_from(FORMS),
    clamp=st.sampled_from([None, 0.7]),
    seed=st.integers(0, 1000),
)
def test_any_widths_and_style_scales(
    widths: list[int], exponent: int, batch: int, upsample: Upsample, clamp: float | None, seed: int
) -> None:
    generator = random_generator(tuple(widths), seed=seed, scale=10.0**exponent, conv_clamp=clamp)
    z, _ = inputs(generator, batch)
    expected = generator(z, psi=0.8)
    image = FusedGenerator(generator, upsample=upsample)(z, torch.full((batch,), 0.8))
    # Relative to the image: with few channels of random weights its magnitude reaches 50.
    assert (image - expected).abs().max() < TOLERANCE * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("scale", [1e-30, 1e15])
def test_styles_far_outside_the_range_of_float16_give_finite_images(scale: float) -> None:
    generator = random_generator((6, 5, 4, 3), scale=scale)
    z, _ = inputs(generator, 2)
    assert FusedGenerator(generator)(z, torch.ones(2)).isfinite().all()


def test_what_enters_a_convolution_does_not_grow_with_the_styles(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    convolution = torch.nn.functional.conv2d

    def watch(x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        seen.append(float(x.abs().max()))
        return convolution(x, *args, **kwargs)  # type: ignore[arg-type]

    fused = {scale: FusedGenerator(random_generator((6, 5, 4, 3), scale=scale)) for scale in (1.0, 1e4)}
    monkeypatch.setattr(torch.nn.functional, "conv2d", watch)
    z = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))
    for generator in fused.values():
        generator(z, torch.ones(2))
    half = len(seen) // 2
    assert seen[half:] == pytest.approx(seen[:half], rel=1e-4)


def test_zero_styles_leave_noise_and_bias() -> None:
    generator = random_generator((4, 3, 5, 2), scale=0.0)
    z, _ = inputs(generator, 2)
    image = FusedGenerator(generator)(z, torch.ones(2))
    assert (image - generator(z)).abs().max() < TOLERANCE


def test_uint8_is_the_truncated_image_channels_last(unconditional: Generator) -> None:
    z, _ = inputs(unconditional, 3)
    psi = torch.full((3,), 0.7)
    image = FusedGenerator(unconditional)(z, psi)
    expected = (image.permute(0, 2, 3, 1) * 127.5 + 128).clip(0, 255).numpy().astype(np.uint8)
    assert np.array_equal(FusedGenerator(unconditional, image="uint8")(z, psi).numpy(), expected)


def test_uint8_ends_are_reached_and_not_wrapped() -> None:
    image = (
        torch.tensor([-5.0, -1.0, -0.5 / 127.5, 0.0, 126.9 / 127.5, 1.0, 5.0]).reshape(1, 1, 1, 7).expand(1, 3, 1, 7)
    )
    assert to_uint8(image)[0, 0, :, 0].tolist() == [0, 0, 127, 128, 254, 255, 255]


def test_polyphase_is_transposed_convolution_and_fir() -> None:
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 3, 3, 3, dtype=torch.float64, generator=random)
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64, generator=random)
    phases = torch.nn.functional.conv2d(x, polyphase_weight(weight), padding=1)
    y = torch.nn.functional.pixel_shuffle(phases, 2)
    # float64: the identity is exact, so the tolerance is rounding only.
    torch.testing.assert_close(y, upsample_conv2d(x, weight), rtol=0, atol=1e-12)


def test_later_changes_of_the_generator_do_not_reach_it() -> None:
    generator = random_generator((4, 3, 5, 2))
    z, _ = inputs(generator, 1)
    fused = FusedGenerator(generator)
    before = fused(z, torch.ones(1))
    for parameter in generator.parameters():
        parameter.data.zero_()
    assert torch.equal(fused(z, torch.ones(1)), before)


@pytest.mark.parametrize("option", [{"upsample": "nearest"}, {"noise": "random"}, {"image": "uint16"}])
def test_unknown_options_are_named(option: dict[str, str], unconditional: Generator) -> None:
    with pytest.raises(UsageError, match=next(iter(option.values()))):
        FusedGenerator(unconditional, **option)  # type: ignore[arg-type]
