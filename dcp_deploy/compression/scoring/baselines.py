"""Simple channel scores to compare the diversity score with: weight magnitudes, feature spread and styles.

All but the random one are in use elsewhere (CAGAN, CVPR 2021, compares them). None measures how the images change
along directions of the latent space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor

from ...generators import Generator, StyleGAN2Synthesis
from ...generators.latents import draw_latents, stream
from ..layers import Step, walk

BaselineMethod = Literal["random", "weight-in", "weight-out", "style", "activation"]
_BATCH = 8


def random_scores(generator: Generator, seed: int) -> list[Tensor]:
    """Return uniform numbers in [0, 1)."""
    source = stream(seed, "random scores")
    return [torch.rand(width, generator=source, dtype=torch.float64) for width in generator.widths]


@torch.no_grad()
def weight_in_scores(generator: Generator) -> list[Tensor]:
    """Return the mean magnitude of the weights that produce a channel: its row in the layer before.

    For the first layer these are the weights of the constant or Fourier input.
    """
    network = generator.synthesis
    first = network.get_parameter("b4.const" if isinstance(network, StyleGAN2Synthesis) else "input.weight")
    weights = [first, *(layer.weight for _, layer in network.scored()[:-1])]
    return [weight.flatten(1).abs().mean(dim=1, dtype=torch.float64).cpu() for weight in weights]


@torch.no_grad()
def weight_out_scores(generator: Generator) -> list[Tensor]:
    """Return the mean magnitude of the weights by which the scored layer reads a channel."""
    weights = [layer.weight for _, layer in generator.synthesis.scored()]
    return [weight.abs().mean(dim=(0, 2, 3), dtype=torch.float64).cpu() for weight in weights]


@torch.no_grad()
def style_scores(widths: Iterable[int], batches: Iterable[list[Step]], latents: int) -> list[Tensor]:
    """Return the magnitude of a channel's mean style over the ``latents`` codes of ``batches``."""
    totals = [torch.zeros(width, dtype=torch.float64) for width in widths]
    for steps in batches:
        for total, step in zip(totals, steps, strict=True):
            total += step.styles().to("cpu", torch.float64).sum(dim=0)
    return [(total / latents).abs() for total in totals]


@torch.no_grad()
def activation_scores(widths: Iterable[int], batches: Iterable[list[Step]]) -> list[Tensor]:
    """Return a channel's standard deviation over all images and positions, with the stored noise."""
    sums = [torch.zeros(3, width, dtype=torch.float64) for width in widths]
    for steps in batches:
        for total, step in zip(sums, steps, strict=True):
            x = step.x.to(torch.float64)
            parts = (torch.ones_like(x), x, x.square())
            total += torch.stack([part.sum(dim=(0, 2, 3)) for part in parts]).cpu()
    return [(squares / count - (total / count).square()).clamp(min=0).sqrt() for count, total, squares in sums]


def scored_steps(
    generator: Generator, latents: int, psi: float, seed: int, progress: Callable[[int, int], None] | None
) -> Iterator[list[Step]]:
    """Yield the scored layers with their inputs, for one batch of codes after the other."""
    device = next(generator.parameters()).device
    scored = {id(layer) for _, layer in generator.synthesis.scored()}
    z, c = draw_latents(generator.config, latents, stream(seed, "score"), device)
    for start in range(0, latents, _BATCH):
        part = slice(start, start + _BATCH)
        ws = generator.mapping(z[part], None if c is None else c[part], psi=psi)
        yield [step for step in walk(generator, ws) if id(step.layer) in scored]
        if progress:
            progress(min(start + _BATCH, latents), latents)
