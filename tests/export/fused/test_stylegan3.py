"""Features of StyleGAN3 only: its input, each layer alone, radial filters, and styles of any size."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dcp_deploy.export.fused import stylegan3
from dcp_deploy.export.fused.generator import FusedGenerator
from dcp_deploy.export.fused.stylegan3 import FusedInput, FusedStyleGAN3Synthesis
from dcp_deploy.generators import Generator, layer_specs, ops
from dcp_deploy.generators.stylegan3 import StyleGAN3Synthesis, SynthesisInput

from ..conftest import random_stylegan3

TOLERANCE = 1e-5  # float32, images of magnitude 1 to 3: two orders of summation
WIDTHS = (6, 5, 4, 3, 5)


def latents(batch: int) -> torch.Tensor:
    return torch.randn(batch, 12, generator=torch.Generator().manual_seed(batch))


@torch.no_grad()
@pytest.mark.parametrize("name", ["sg3t_32", "sg3t_64_cond_clamp", "sg3r_64"])
def test_every_layer_gives_what_the_readable_one_gives(
    name: str, golden: Callable[[str], Mapping[str, np.ndarray]], golden_generator: Callable[[str], Generator]
) -> None:
    generator = golden_generator(name)
    fused = FusedGenerator(generator)
    assert isinstance(fused.synthesis, FusedStyleGAN3Synthesis)
    outputs: dict[str, torch.Tensor] = {}
    for layer in ("input", *fused.synthesis.names):
        fused.synthesis.get_submodule(layer).register_forward_hook(
            lambda module, args, output, layer=layer: outputs.update({layer: output})
        )
    data = golden(name)
    z = torch.from_numpy(data["z"]).float()
    c = torch.from_numpy(data["c"]).float() if "c" in data else None
    fused(z, torch.ones(len(z)), c)
    _, expected = generator.synthesis.features(generator.mapping(z, c))
    assert list(outputs) == list(expected)
    for layer, output in outputs.items():
        # Activations reach magnitude 8.
        torch.testing.assert_close(output, expected[layer], atol=3e-5, rtol=0, msg=layer)


@pytest.mark.parametrize("name", ["sg3t_32", "sg3r_64"])
def test_a_transform_other_than_the_identity_is_kept(
    name: str, golden: Callable[[str], Mapping[str, np.ndarray]], golden_generator: Callable[[str], Generator]
) -> None:
    data, generator = golden(name), golden_generator(name)
    generator.synthesis.get_buffer("input.transform").copy_(torch.from_numpy(data["transform_alt"]))
    z = torch.from_numpy(data["z"]).float()
    image = FusedGenerator(generator)(z, torch.ones(len(z)))
    assert np.abs(image.numpy() - data["img_const_transform_alt"]).max() < 2e-5  # tolerance of the golden data itself


@settings(max_examples=20, deadline=None)
@given(
    widths=st.lists(st.integers(1, 9), min_size=4, max_size=6),
    radial=st.booleans(),
    exponent=st.integers(-4, 4),
    batch=st.integers(1, 3),
    clamp=st.sampled_from([None, 0.7]),
    seed=st.integers(0, 1000),
)
def test_any_widths_and_style_scales(
    widths: list[int], radial: bool, exponent: int, batch: int, clamp: float | None, seed: int
) -> None:
    generator = random_stylegan3(tuple(widths), seed=seed, scale=10.0**exponent, radial=radial, conv_clamp=clamp)
    z = latents(batch)
    expected = generator(z, psi=0.8)
    image = FusedGenerator(generator)(z, torch.full((batch,), 0.8))
    # Relative to the image: with few channels of random weights its magnitude reaches 30.
    assert (image - expected).abs().max() < TOLERANCE * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("scale", [1e-30, 1e15])
def test_styles_far_outside_the_range_of_float16_give_finite_images(scale: float) -> None:
    assert FusedGenerator(random_stylegan3(WIDTHS, scale=scale))(latents(2), torch.ones(2)).isfinite().all()


def test_styles_of_all_zeros_leave_the_biases() -> None:
    """The readable network divides zero by zero in this case."""
    generator = random_stylegan3(WIDTHS, scale=0.0)
    image = FusedGenerator(generator)(latents(2), torch.ones(2))
    assert image.isfinite().all()
    assert image.abs().max() > 0.01


def test_what_enters_a_convolution_does_not_grow_with_the_styles(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    convolution = torch.nn.functional.conv2d

    def watch(x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        seen.append(float(x.abs().max()))
        return convolution(x, *args, **kwargs)  # type: ignore[arg-type]

    fused = {scale: FusedGenerator(random_stylegan3(WIDTHS, scale=scale)) for scale in (1.0, 1e4)}
    monkeypatch.setattr(torch.nn.functional, "conv2d", watch)
    for generator in fused.values():
        generator(latents(2), torch.ones(2))
    half = len(seen) // 2
    assert len(seen) == 2 * len(WIDTHS)  # the input and every layer; toRGB is not one
    assert seen[half:] == pytest.approx(seen[:half], rel=1e-4)


def test_the_epsilon_of_the_demodulation_is_carried_along_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random_stylegan3(WIDTHS, scale=3.0)
    z = latents(2)
    small = generator(z)
    for module in (ops, stylegan3):
        monkeypatch.setattr(module, "DEMODULATION_EPS", 20.0)  # as large as the sums of squares that it is added to
    expected = generator(z)
    assert (expected - small).abs().max() > 0.01
    assert (FusedGenerator(generator)(z, torch.ones(2)) - expected).abs().max() < TOLERANCE


# ---- the input ----


def inputs_of(generator: Generator) -> tuple[SynthesisInput, FusedInput]:
    """Return the readable and the fused input; both get the motion [B, 4] as the bias of an affine layer."""
    assert isinstance(generator.synthesis, StyleGAN3Synthesis)
    assert generator.config.layout is not None
    weights = {key: value.double() for key, value in generator.state_dict().items()}
    return generator.synthesis.input, FusedInput(weights, layer_specs(32, generator.config.layout)[0])


def draw_with(readable: SynthesisInput, motion: torch.Tensor) -> torch.Tensor:
    """Compute the input in float64 from a motion instead of a style."""
    exact = readable.double()
    exact.affine.forward = lambda w: motion.double()  # type: ignore[method-assign]
    return exact(torch.zeros(len(motion), 16, dtype=torch.float64))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), shift=st.sampled_from([0.0, 0.1, 3.0]))
def test_the_input_is_the_readable_one_for_any_motion_and_transform(seed: int, shift: float) -> None:
    generator = random_stylegan3(WIDTHS, seed=seed)
    generator.synthesis.get_buffer("input.transform").normal_()  # the last row too
    readable, fused = inputs_of(generator)
    motion = torch.randn(3, 4)
    motion[:, :2] /= motion[:, :2].norm(dim=1, keepdim=True)
    motion[:, 2:] *= shift
    image = fused(motion * 10.0 ** torch.randint(-3, 4, (3, 1)))  # its length has no effect
    # Up to 30 turns, each of which float32 knows to 6e-8 of them: 2 pi 30 6e-8 = 1e-5 a wave, seven waves.
    torch.testing.assert_close(image.double(), draw_with(readable, motion), atol=5e-5, rtol=0)


def test_a_motion_of_zeros_or_of_extreme_length_is_finite() -> None:
    _, fused = inputs_of(random_stylegan3(WIDTHS))
    motion = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1e25, 0.0, 1e25, 0.0], [1e-25, 1e-25, 0.0, 0.0]])
    assert fused(motion).isfinite().all()
