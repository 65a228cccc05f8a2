"""The discriminator's shapes, its minibatch statistic and its derivatives."""

from __future__ import annotations

import math

import pytest
import torch

from dcp_deploy.generators import Discriminator, DiscriminatorConfig
from dcp_deploy.generators.discriminator import minibatch_std


@pytest.mark.parametrize("base", [(4, 4), (4, 2), (3, 5)])
def test_one_logit_for_each_image(base: tuple[int, int]) -> None:
    config = DiscriminatorConfig(16, (4, 6, 8), base=base)
    network = Discriminator(config)
    images = torch.randn(5, 3, *config.image_size)
    assert network(images).shape == (5,)
    assert network.features(images)[-1].shape[2:] == base


def test_the_class_changes_the_logit() -> None:
    network = Discriminator(DiscriminatorConfig(16, (4, 6, 8), c_dim=2))
    images = torch.randn(1, 3, 16, 16).expand(2, -1, -1, -1)
    logits = network(images, torch.eye(2))
    assert logits[0] != logits[1]
    with pytest.raises(ValueError, match="conditional"):
        network(images)


def test_the_clamp_bounds_every_activated_convolution() -> None:
    bounded = Discriminator(DiscriminatorConfig(16, (4, 6, 8), conv_clamp=0.25))
    found: list[torch.Tensor] = []
    convs = [m for m in bounded.modules() if type(m).__name__ == "Conv" and m.bias is not None]
    for conv in convs:
        torch.nn.init.constant_(conv.bias, 5.0)  # so that something passes the clamp everywhere
        conv.register_forward_hook(lambda module, inputs, output: found.append(output))
    bounded(torch.randn(4, 3, 16, 16))
    assert len(found) == len(convs) == 6
    assert [output.abs().max().item() for output in found] == [0.25] * 6
    with pytest.raises(ValueError, match="conv_clamp must be positive"):
        DiscriminatorConfig(16, (4, 6, 8), conv_clamp=0.0)


def test_minibatch_std_measures_the_spread_within_each_group() -> None:
    x = torch.tensor([0.0, 5.0, 2.0, 5.0]).reshape(4, 1, 1, 1)  # groups of two: samples 0, 2 and 1, 3
    added = minibatch_std(x, group=2)[:, 1].flatten()
    assert added.tolist() == pytest.approx([1.0, 1e-4, 1.0, 1e-4])


def test_an_indivisible_batch_is_one_group() -> None:
    added = minibatch_std(torch.tensor([0.0, 1.0, 2.0]).reshape(3, 1, 1, 1), group=2)[:, 1].flatten()
    assert added.tolist() == pytest.approx([math.sqrt(2 / 3)] * 3)


def test_r1_can_be_differentiated_twice() -> None:
    network = Discriminator(DiscriminatorConfig(8, (4, 6)))
    images = torch.randn(4, 3, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(images).sum(), images, create_graph=True)
    gradient.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for n, p in network.named_parameters() if "weight" in n)


def test_features_depend_on_one_image_each_and_end_at_four_pixels() -> None:
    network = Discriminator(DiscriminatorConfig(16, (4, 6, 8)))
    images = torch.randn(4, 3, 16, 16)
    maps = network.features(images)
    assert [tuple(x.shape) for x in maps] == [(4, 4, 16, 16), (4, 6, 8, 8), (4, 8, 4, 4)]
    # Alone or in a batch: other sums in a convolution's float32 at most.
    torch.testing.assert_close(network.features(images[:1])[-1], maps[-1][:1], rtol=1e-4, atol=1e-5)
    assert network.features(images, dtype=torch.bfloat16)[-1].dtype == torch.bfloat16
