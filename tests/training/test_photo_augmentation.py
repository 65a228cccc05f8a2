"""Adaptive augmentation: its changes, that they do not leak, and how their probability adapts."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dcp_deploy.training.photo_augmentation import MAX_P, SHIFT, Augmentation, Changes, augment, draw_changes

COUNT = 20_000


def images(count: int, resolution: int = 8) -> torch.Tensor:
    return torch.rand(count, 3, resolution, resolution, generator=torch.Generator().manual_seed(1)) * 2 - 1


@cache
def many_changes(p: float, resolution: int = 64) -> Changes:
    return draw_changes(p, (resolution, resolution), [torch.Generator().manual_seed(0)] * COUNT)


def changes(**chosen: torch.Tensor) -> Changes:
    """Return changes of one image, neutral but for the chosen ones."""
    neutral = {
        "mirrored": torch.tensor([False]),
        "turns": torch.tensor([0]),
        "shifts": torch.tensor([[0, 0]]),
        "colours": torch.tensor([[0.0, 1.0, 1.0]]),
    }
    return Changes(**{**neutral, **chosen})


# ---- the changes ----


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_probability_0_changes_nothing(seed: int) -> None:
    before = images(4)
    sources = [torch.Generator().manual_seed(seed + index) for index in range(4)]
    assert torch.equal(augment(before, draw_changes(0.0, (8, 8), sources)), before)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_moving_pixels_keeps_all_of_them(seed: int) -> None:
    drawn = draw_changes(1.0, (8, 8), [torch.Generator().manual_seed(seed)])
    before = images(1)
    after = augment(before, changes(mirrored=drawn.mirrored, turns=drawn.turns, shifts=drawn.shifts))
    assert torch.equal(after.flatten(2).sort()[0], before.flatten(2).sort()[0])


def test_each_change_does_what_its_name_says() -> None:
    x = images(1)
    assert torch.equal(augment(x, changes(mirrored=torch.tensor([True]))), x.flip(3))
    assert torch.equal(augment(x, changes(turns=torch.tensor([2]))), x.flip((2, 3)))
    down = augment(x, changes(shifts=torch.tensor([[1, 0]])))
    assert torch.equal(down[:, :, 1:], x[:, :, :-1]) and torch.equal(down[:, :, 0], x[:, :, -1])
    torch.testing.assert_close(augment(x, changes(colours=torch.tensor([[0.3, 1.0, 1.0]]))), x + 0.3)
    torch.testing.assert_close(augment(x, changes(colours=torch.tensor([[0.0, 2.0, 1.0]]))), 2 * x)
    grey = augment(x, changes(colours=torch.tensor([[0.0, 1.0, 0.0]])))
    torch.testing.assert_close(grey, x.mean(dim=1, keepdim=True).expand_as(x))


@pytest.mark.parametrize("p", [0.3, 1.0])
def test_each_change_is_as_frequent_as_its_probability(p: float) -> None:
    found = many_changes(p)
    # Mirroring, turns and shifts are drawn neutral in some cases: 1/2, 1/4 and (1/16)^2.
    shares = {
        "mirrored": (found.mirrored, 0.5 * p),
        "turned": (found.turns > 0, 0.75 * p),
        "shifted": ((found.shifts != 0).any(dim=1), (1 - 1 / 16**2) * p),
        "lit": (found.colours[:, 0] != 0, p),
        "contrasted": (found.colours[:, 1] != 1, p),
        "saturated": (found.colours[:, 2] != 1, p),
    }
    for name, (chosen, share) in shares.items():
        # Five standard deviations of a share of 20,000.
        assert chosen.float().mean().item() == pytest.approx(share, abs=5 * math.sqrt(0.25 / COUNT)), name
    logs = found.colours[found.colours[:, 1] != 1][:, 1].log2()
    assert logs.mean().item() == pytest.approx(0, abs=0.02) and logs.std().item() == pytest.approx(0.5, abs=0.02)


def test_a_higher_probability_applies_the_same_changes_more_often() -> None:
    low, high = many_changes(0.3), many_changes(1.0)
    assert ((low.turns == 0) | (low.turns == high.turns)).all()
    assert ((low.colours[:, 0] == 0) | (low.colours[:, 0] == high.colours[:, 0])).all()


@pytest.mark.parametrize("resolution", [8, 64])
def test_shifts_do_not_leak_at_the_highest_probability(resolution: int) -> None:
    """The distribution of shifted images is a convolution over the torus: it loses what its transform sends to 0."""
    m = round(SHIFT * resolution)
    one_axis = torch.zeros(resolution, dtype=torch.float64)
    for j in range(-m, m + 1):
        one_axis[j] = 1 / (4 * m) if abs(j) == m else 1 / (2 * m)
    found = many_changes(1.0, resolution).shifts[:, 0]
    frequencies = torch.bincount(found % resolution, minlength=resolution) / COUNT
    torch.testing.assert_close(frequencies.double(), one_axis, rtol=0, atol=5 * math.sqrt(0.25 / COUNT))

    phi = torch.fft.fft2(torch.outer(one_axis, one_axis)).real
    assert (1 - MAX_P + MAX_P * phi).min() > 1 - MAX_P * 1.2173  # sin(x) / x is nowhere below -0.2172
    if resolution == 64:  # the bound matters: shifting every image would lose something
        assert phi.min() < -0.2


def test_rectangles_keep_their_shape() -> None:
    drawn = draw_changes(1.0, (16, 8), [torch.Generator().manual_seed(0)] * COUNT)
    assert set(drawn.turns.tolist()) == {0, 2}
    assert drawn.shifts.amax(dim=0).tolist() == [2, 1]  # an eighth of the height and of the width
    x = images(64)[:, :, :, :4]
    first = Changes(*(values[:64] for values in (drawn.mirrored, drawn.turns, drawn.shifts, drawn.colours)))
    assert augment(x, first).shape == x.shape


def test_gradients_reach_the_original_pixels() -> None:
    x = images(3).requires_grad_(True)
    drawn = draw_changes(1.0, (8, 8), [torch.Generator().manual_seed(seed) for seed in range(3)])
    augment(x, drawn).sum().backward()
    assert x.grad is not None
    # Contrast multiplies every pixel's sum over colours, whatever its position and saturation.
    expected = drawn.colours[:, 1, None, None, None].expand_as(x)
    torch.testing.assert_close(x.grad, expected)


# ---- adapting ----


def test_the_probability_follows_the_signs_at_its_rate_and_within_its_bounds() -> None:
    state = Augmentation()
    for _ in range(8):
        state.adapt(0.9, target=0.6, batch=16, images=640)
    assert state.p == pytest.approx(2 * 64 / 640)
    for _ in range(4):
        state.adapt(0.1, target=0.6, batch=16, images=640)
    assert state.p == pytest.approx(64 / 640)
    for _ in range(3):
        state.adapt(0.1, target=0.6, batch=16, images=640)
    assert state.p == pytest.approx(64 / 640) and state.steps == 3  # only every fourth step
    for sign, end in ((1.0, MAX_P), (-1.0, 0.0)):
        for _ in range(100):
            state.adapt(sign, target=0.6, batch=16, images=640)
        assert state.p == end
