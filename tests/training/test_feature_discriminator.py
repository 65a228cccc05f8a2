"""The discriminator of features: its heads, their norms, and that they learn fast enough."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dcp_deploy.training.feature_discriminator import (
    FeatureDiscriminator,
    discriminator_hinge_loss,
    generator_hinge_loss,
)
from dcp_deploy.training.parts import step


def test_the_head_of_every_resolution_returns_logits_of_four_pixels() -> None:
    shapes = [(24, 32), (48, 16), (80, 8), (64, 4)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        discriminator = FeatureDiscriminator(shapes)
        maps = [torch.randn(2, channels, side, side) for channels, side in shapes]
    logits = discriminator(maps)
    assert [tuple(x.shape) for x in logits] == [(2, 1, 4, 4)] * 4
    # A coarse map reaches every finer head, a fine one only its own: mixing goes from coarse to fine.
    for changed, reached in ((3, [True] * 4), (0, [True, False, False, False])):
        other = [*maps]
        other[changed] = maps[changed] + 1
        assert [not torch.equal(a, b) for a, b in zip(discriminator(other), logits, strict=True)] == reached, changed


def test_heads_learn_to_tell_maps_apart_within_twenty_steps() -> None:
    """At the learning rate of the photograph teacher. Heads that start at N(0, 1) have a loss of 3.6 then."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        discriminator = FeatureDiscriminator([(24, 16), (40, 8)])
        optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-3, betas=(0.0, 0.99))
        for _ in range(20):
            real, fake = ([torch.randn(8, 24, 16, 16), torch.randn(8, 40, 8, 8)] for _ in range(2))
            fake = [x + 0.3 * torch.randn_like(x).mean(dim=1, keepdim=True) + 0.1 for x in fake]
            discriminator.follow()
            loss = discriminator_hinge_loss(discriminator(real), discriminator(fake))
            step(optimizer, loss)
    assert loss.item() < 1.5  # 4 for heads that know nothing


def test_no_layer_of_a_head_has_a_spectral_norm_above_one() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        discriminator = FeatureDiscriminator([(8, 16)])
    layers = [layer for layer in discriminator.modules() if isinstance(layer, torch.nn.Conv2d)]
    with torch.no_grad():
        for layer in layers:
            layer.parametrizations["weight"].original.mul_(3)  # type: ignore[index, union-attr]
    for _ in range(30):  # power iterations: the largest singular value to a thousandth
        discriminator.follow()
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, rel=1e-2)


def test_the_random_filters_do_not_train() -> None:
    discriminator = FeatureDiscriminator([(8, 16), (8, 8)])
    trained = {name for name, _ in discriminator.named_parameters()}
    filters = {name for name in discriminator.state_dict() if name.startswith("over_")}
    assert len(filters) == 4 and not filters & trained


@given(st.floats(-3, 3), st.floats(-3, 3))
def test_hinge_losses_ignore_logits_beyond_one_and_sum_over_maps(real: float, fake: float) -> None:
    maps = [torch.full((2, 1, 4, 4), value) for value in (real, 2.0)], [torch.full((2, 1, 2, 2), fake)] * 2
    expected = max(0.0, 1 - real) + 0.0 + 2 * max(0.0, 1 + fake)
    assert discriminator_hinge_loss(*maps).item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert generator_hinge_loss(maps[1]).item() == pytest.approx(-2 * fake, rel=1e-5, abs=1e-6)
