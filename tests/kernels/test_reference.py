from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dcp_deploy.generators.ops import bias_act
from dcp_deploy.kernels import modconv_epilogue

SHAPE = (2, 3, 4, 5)  # batch, channels, height, width: all different, so that a mixed-up axis shows


def arguments(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    batch, channels, height, width = SHAPE
    shapes = (SHAPE, (batch, channels), (height, width), (channels,))
    x, scale, noise, bias = (torch.randn(shape, generator=random) for shape in shapes)
    return x, scale, noise, bias


def test_every_element_follows_the_formula() -> None:
    x, scale, noise, bias = arguments()
    y = modconv_epilogue(x, scale, noise, bias, clamp=0.9)
    for b, c, i, j in [(0, 0, 0, 0), (1, 2, 3, 4), (0, 2, 1, 3), (1, 0, 2, 1)]:
        value = float(x[b, c, i, j] * scale[b, c] + noise[i, j] + bias[c])
        value = value if value > 0 else 0.2 * value
        # One product and two sums in float32 on numbers below 10.
        assert math.isclose(float(y[b, c, i, j]), min(max(value, -0.9), 0.9), abs_tol=2e-6)


def test_clamp_comes_last_and_is_symmetric() -> None:
    x, scale, noise, bias = arguments()
    y = modconv_epilogue(1000 * x, scale, noise, bias, clamp=0.5)
    assert y.min() == -0.5
    assert y.max() == 0.5


def test_no_noise_equals_zero_noise() -> None:
    x, scale, noise, bias = arguments()
    none = modconv_epilogue(x, scale, None, bias)
    assert torch.equal(none, modconv_epilogue(x, scale, torch.zeros_like(noise), bias))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), gain=st.floats(0.01, 100))
def test_a_positive_gain_can_be_folded_into_scale_noise_and_bias(seed: int, gain: float) -> None:
    x, scale, noise, bias = arguments(seed)
    folded = modconv_epilogue(x, scale * gain, noise * gain, bias * gain)
    # Relative to the largest output: the terms may cancel, their rounding does not.
    expected = gain * modconv_epilogue(x, scale, noise, bias)
    torch.testing.assert_close(
        folded, expected, rtol=0, atol=2e-6 * gain * float(x.abs().max() * scale.abs().max() + 6)
    )


def test_with_the_folded_gain_it_is_the_readable_layer() -> None:
    x, scale, noise, bias = arguments()
    gain = math.sqrt(2)
    folded = modconv_epilogue(x, scale * gain, noise * gain, bias * gain, clamp=1.5)
    torch.testing.assert_close(folded, bias_act(x * scale[:, :, None, None] + noise, bias, 1.5), rtol=0, atol=2e-6)
