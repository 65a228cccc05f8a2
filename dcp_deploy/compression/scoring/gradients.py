"""What the weights of a generator feel of a change in its images: mean absolute gradients by input channel.

One function for each change that scores are made of, and the slow reference of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ...generators import Generator

FLIPPED = 0.05
"""Share of the content's pixels that the content score paints black or white."""
_TOGETHER = 50  # images drawn in one go


def scored_weights(generator: Generator) -> list[Tensor]:
    """The weights whose *input* channels are scored.

    StyleGAN2: every 3x3 convolution, then the last toRGB only. StyleGAN3: every layer, toRGB included.
    """
    return [layer.weight for _, layer in generator.synthesis.scored()]


def gradient_profiles(generator: Generator, weights: list[Tensor], ws: Tensor, offsets: Tensor) -> list[Tensor]:
    """Mean absolute gradient per input channel, float64 [N, C_in] for each weight, of the loss to each offset.

    ``ws`` is [B, num_ws, w_dim], ``offsets`` [N, w_dim]. The un-perturbed images do not depend on the offset, so
    they are drawn once and their graph serves all N backward passes; perturbed images need no graph at all. The loss
    ``sum |perturbed - image|`` enters as its derivative by the image, ``sign(image - perturbed)``.
    """
    profiles: list[list[Tensor]] = [[] for _ in weights]
    image = generator.synthesis(ws, noise="const")
    for pull in _pulls(generator, image.detach(), ws, offsets):
        gradients = torch.autograd.grad(image, weights, pull, retain_graph=True)
        for profile, gradient in zip(profiles, gradients, strict=True):
            profile.append(_by_channel(gradient))
    return [torch.stack(profile) for profile in profiles]


def gradient_profiles_by_definition(
    generator: Generator, weights: list[Tensor], ws: Tensor, offsets: Tensor
) -> list[Tensor]:
    """:func:`gradient_profiles` as it is written down, both images and the loss anew for each offset: its reference."""
    profiles: list[list[Tensor]] = [[] for _ in weights]
    for offset in offsets:
        with torch.no_grad():
            perturbed = generator.synthesis(ws + offset, noise="const")
        loss = (perturbed - generator.synthesis(ws, noise="const")).abs().sum()
        for profile, gradient in zip(profiles, torch.autograd.grad(loss, weights), strict=True):
            profile.append(_by_channel(gradient))
    return [torch.stack(profile) for profile in profiles]


@torch.no_grad()
def _pulls(generator: Generator, image: Tensor, ws: Tensor, offsets: Tensor) -> Iterator[Tensor]:
    """``sign(image - perturbed)`` of each offset; as many offsets are drawn together as make some 50 images."""
    for part in torch.split(offsets, max(_TOGETHER // len(ws), 1)):
        moved = (ws + part[:, None, None]).flatten(0, 1)
        yield from torch.sign(image - generator.synthesis(moved, noise="const").unflatten(0, (len(part), len(ws))))


def released_profiles(
    generator: Generator, weights: list[Tensor], ws: Tensor, offsets: Tensor, source: torch.Generator
) -> list[Tensor]:
    """The same as the published code computes it: both images hang on the weights, and each has noise of its own."""
    profiles: list[list[Tensor]] = [[] for _ in weights]
    for offset in offsets:
        image = generator.synthesis(ws, noise="random", generator=source)
        perturbed = generator.synthesis(ws + offset, noise="random", generator=source)
        gradients = torch.autograd.grad((perturbed - image).abs().sum(), weights)
        for profile, gradient in zip(profiles, gradients, strict=True):
            profile.append(_by_channel(gradient))
    return [torch.stack(profile) for profile in profiles]


def content_profiles(
    generator: Generator,
    weights: list[Tensor],
    ws: Tensor,
    mask: Callable[[Tensor], Tensor],
    source: torch.Generator,
) -> list[Tensor]:
    """Mean absolute gradient per input channel, float64 [1, C_in], of a loss that noise on the content makes (CAGAN).

    ``mask`` tells the content of images [B, 3, R, R] as [B, 1, R, R] of zeros and ones. Of its pixels a share of
    ``FLIPPED``, drawn from ``source``, turns to -1 or 1 in all colours; the loss is ``sum |noisy - image|``.
    """
    image = generator.synthesis(ws, noise="const")
    content = mask(image.detach()) > 0.5
    chance = torch.rand(content.shape, generator=source).to(image.device)
    side = torch.randint(0, 2, content.shape, generator=source).to(image) * 2 - 1
    noisy = torch.where(content & (chance < FLIPPED), side, image.detach())
    gradients = torch.autograd.grad(image, weights, torch.sign(image.detach() - noisy))
    return [_by_channel(gradient)[None] for gradient in gradients]


def _by_channel(gradient: Tensor) -> Tensor:
    return gradient.abs().mean(dim=(0, 2, 3), dtype=torch.float64)
