"""The factorised operators against the papers' definition, over shapes and scales."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from dcp_deploy.generators import ops


def modulated_conv2d_by_definition(
    x: Tensor, weight: Tensor, styles: Tensor, *, demodulate: bool = True, up: int = 1
) -> Tensor:
    """Compute the function as the papers define it, with one weight tensor per sample."""
    outputs = []
    for sample, style in zip(x, styles, strict=True):
        w = weight * style[None, :, None, None]
        if demodulate:
            w = w * (w.square().sum(dim=(1, 2, 3), keepdim=True) + ops.DEMODULATION_EPS).rsqrt()
        one = sample[None]
        outputs.append(ops.upsample_conv2d(one, w) if up == 2 else F.conv2d(one, w, padding=w.shape[-1] // 2))
    return torch.cat(outputs)


def upsample2d_by_definition(x: Tensor, kernel: Tensor, up: int, padding: tuple[int, int]) -> Tensor:
    """Compute the function step by step, for a symmetric ``kernel``."""
    batch, channels, height, width = x.shape
    spread = x.new_zeros(batch, channels, height, up, width, up)
    spread[:, :, :, 0, :, 0] = x
    padded = F.pad(spread.reshape(batch, channels, height * up, width * up), (*padding, *padding))
    return ops.filter2d(padded, torch.outer(kernel, kernel) * up**2)


@given(
    fan_in=st.integers(1, 9),
    fan_out=st.integers(1, 9),
    size=st.integers(1, 6),
    up=st.sampled_from([1, 2]),
    demodulate=st.booleans(),
    scale=st.sampled_from([1e-2, 1.0, 1e3]),
    seed=st.integers(0, 2**16),
)
def test_modulated_conv_equals_its_definition(
    fan_in: int, fan_out: int, size: int, up: int, demodulate: bool, scale: float, seed: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(3, fan_in, size, size, generator=rng, dtype=torch.float64)
    weight = torch.randn(fan_out, fan_in, 3, 3, generator=rng, dtype=torch.float64)
    styles = scale * torch.randn(3, fan_in, generator=rng, dtype=torch.float64)
    fast = ops.modulated_conv2d(x, weight, styles, demodulate=demodulate, up=up)
    slow = modulated_conv2d_by_definition(x, weight, styles, demodulate=demodulate, up=up)
    torch.testing.assert_close(fast, slow, atol=1e-12 * scale, rtol=1e-9)  # float64: only the order of sums differs


def test_upsampling_an_image_blends_neighbours_by_three_and_one_quarter() -> None:
    image = torch.arange(4.0).reshape(1, 1, 1, 4).expand(1, 1, 4, 4)
    middle = ops.upsample_image(image)[0, 0, 3]
    assert middle[1:-1].tolist() == pytest.approx([0.25, 0.75, 1.25, 1.75, 2.25, 2.75])


def test_upsampling_takes_zeros_outside_the_border() -> None:
    corner = ops.upsample_image(torch.ones(1, 1, 2, 2))[0, 0]
    assert corner[0].tolist() == pytest.approx([0.5625, 0.75, 0.75, 0.5625])


def test_the_clamp_follows_the_gain() -> None:
    y = ops.bias_act(torch.tensor([[10.0, -10.0, 0.1]]), torch.zeros(3), clamp=1.5)
    assert y.tolist()[0] == pytest.approx([1.5, -1.5, 0.1 * ops.LRELU_GAIN])


@given(
    size=st.integers(1, 9),
    up=st.integers(1, 4),
    before=st.integers(-6, 12),
    after=st.integers(-6, 12),
    half=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_upsampling_equals_its_definition(size: int, up: int, before: int, after: int, half: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    taps = torch.rand(half, generator=rng, dtype=torch.float64)
    kernel = torch.cat([taps, taps.flip(0)])
    assume(size * up + before + after >= len(kernel) and size * up + min(before, 0) + min(after, 0) > 0)
    # A crop that leaves nothing but inserted zeros is not supported; no layer has one.
    cropped = min(before - len(kernel) + 1, 0) + min(after + up - len(kernel), 0)
    assume((size - 1) * up + len(kernel) + cropped >= 0)
    x = torch.randn(2, 3, size, size, generator=rng, dtype=torch.float64)
    fast = ops.upsample2d(x, kernel, up, (before, after))
    slow = upsample2d_by_definition(x, kernel, up, (before, after))
    torch.testing.assert_close(fast, slow, atol=1e-12, rtol=1e-12)  # float64: only the order of sums differs


@pytest.mark.parametrize("down", [1, 2, 4])
def test_downsampling_filters_and_then_drops_samples(down: int) -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 20, 20, generator=rng, dtype=torch.float64)
    taps = torch.rand(6, generator=rng, dtype=torch.float64)
    expected = ops.filter2d(x, torch.outer(taps, taps))[:, :, ::down, ::down]
    for kernel in (taps, torch.outer(taps, taps)):  # separable and not
        torch.testing.assert_close(ops.downsample2d(x, kernel, down), expected, atol=1e-12, rtol=1e-12)
