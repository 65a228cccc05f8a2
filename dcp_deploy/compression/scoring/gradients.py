"""How strongly a change of the images pulls at the weights: mean absolute gradients by input channel.

There is one function for each kind of change that a score uses, and a slow reference implementation of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import cast

import torch
from torch import Tensor

from ...generators import Generator, StyleGAN2Synthesis
from ...generators.lean import lean_images

FLIPPED = 0.05
"""Share of the content's pixels that the content score paints black or white."""
_TOGETHER = 50  # images computed in one call


def scored_weights(generator: Generator) -> list[Tensor]:
    """Return the weights whose *input* channels are scored.

    StyleGAN2: every 3x3 convolution, then the last toRGB only. StyleGAN3: every layer, toRGB included.
    """
    return [layer.weight for _, layer in generator.synthesis.scored()]


def gradient_profiles(generator: Generator, weights: list[Tensor], ws: Tensor, offsets: Tensor) -> list[Tensor]:
    """Return the mean absolute gradient of each offset's loss per input channel: float64 [N, C_in] for each weight.

    ``ws`` is [B, num_ws, w_dim], ``offsets`` [N, w_dim]. The unperturbed images do not depend on the offset: they are
    computed once, and their graph serves all N backward passes. Perturbed images need no graph. The loss
    ``sum |perturbed - image|`` enters as its derivative by the image, ``sign(image - perturbed)``.
    """
    image = _images(generator, ws)
    signs = _difference_signs(generator, image.detach(), ws, offsets)
    return _profiles(torch.autograd.grad(image, weights, sign, retain_graph=True) for sign in signs)


@torch.no_grad()
def _difference_signs(generator: Generator, image: Tensor, ws: Tensor, offsets: Tensor) -> Iterator[Tensor]:
    """Yield ``sign(image - perturbed)`` of each offset; each call of the network computes about 50 images."""
    for part in torch.split(offsets, max(_TOGETHER // len(ws), 1)):
        moved = (ws + part[:, None, None]).flatten(0, 1)
        yield from torch.sign(image - _images(generator, moved).reshape(len(part), *image.shape))


def _images(generator: Generator, ws: Tensor) -> Tensor:
    """Return the images with stored noise, of a StyleGAN2 in fewer passes than its readable network makes."""
    synthesis = generator.synthesis
    if isinstance(synthesis, StyleGAN2Synthesis):
        return lean_images(synthesis, ws)
    return cast(Tensor, synthesis(ws, noise="const"))


def gradient_profiles_by_definition(
    generator: Generator, weights: list[Tensor], ws: Tensor, offsets: Tensor
) -> list[Tensor]:
    """Return :func:`gradient_profiles` computed literally: both images and the loss anew for each offset."""

    def gradients(offset: Tensor) -> Sequence[Tensor]:
        with torch.no_grad():
            perturbed = generator.synthesis(ws + offset, noise="const")
        return torch.autograd.grad((perturbed - generator.synthesis(ws, noise="const")).abs().sum(), weights)

    return _profiles(map(gradients, offsets))


def released_profiles(
    generator: Generator, weights: list[Tensor], ws: Tensor, offsets: Tensor, source: torch.Generator
) -> list[Tensor]:
    """Return the profiles as the published code computes them: gradients through both images, each with fresh noise."""

    def gradients(offset: Tensor) -> Sequence[Tensor]:
        image = generator.synthesis(ws, noise="random", generator=source)
        perturbed = generator.synthesis(ws + offset, noise="random", generator=source)
        return torch.autograd.grad((perturbed - image).abs().sum(), weights)

    return _profiles(map(gradients, offsets))


def content_profiles(
    generator: Generator,
    weights: list[Tensor],
    ws: Tensor,
    mask: Callable[[Tensor], Tensor],
    source: torch.Generator,
) -> list[Tensor]:
    """Return the mean absolute gradient per input channel, float64 [1, C_in], of CAGAN's loss by noise on the content.

    ``mask`` maps images [B, 3, H, W] to their content, [B, 1, H, W] of zeros and ones. A share ``FLIPPED`` of its
    pixels, drawn from ``source``, turns to -1 or 1 in all colours. The loss is ``sum |noisy - image|``.
    """
    image = generator.synthesis(ws, noise="const")
    content = mask(image.detach()) > 0.5
    chance = torch.rand(content.shape, generator=source).to(image.device)
    side = torch.randint(0, 2, content.shape, generator=source).to(image) * 2 - 1
    noisy = torch.where(content & (chance < FLIPPED), side, image.detach())
    return _profiles([torch.autograd.grad(image, weights, torch.sign(image.detach() - noisy))])


def _profiles(gradients: Iterable[Sequence[Tensor]]) -> list[Tensor]:
    """Reduce N gradients of all weights to the mean absolute gradient per input channel, [N, C_in] for each weight."""
    profiles = [[each.abs().mean(dim=(0, 2, 3)).double() for each in weights] for weights in gradients]
    return [torch.stack(profile) for profile in zip(*profiles, strict=True)]
