"""Channel scores to compare the diversity score with: what a channel weighs, how much it varies, how it is styled.

All of them but the random one are in use elsewhere (CAGAN, CVPR 2021, compares them). None looks at what happens to
the images along directions of the latent space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from ...generators import Generator, StyleGAN2Synthesis
from ...generators.latents import draw_latents, stream
from ..layers import Step, layer_count, output_of, walk

BaselineMethod = Literal["random", "weight-in", "weight-out", "style", "activation"]
_BATCH = 8


def random_scores(generator: Generator, seed: int) -> list[Tensor]:
    """Uniform in [0, 1): the baseline to beat."""
    source = stream(seed, "random scores")
    return [torch.rand(width, generator=source, dtype=torch.float64) for width in generator.widths]


@torch.no_grad()
def weight_in_scores(generator: Generator) -> list[Tensor]:
    """Mean magnitude of the weights that make a channel: its row in the layer before, or of what stands first."""
    network = generator.synthesis
    first = network.get_parameter("b4.const" if isinstance(network, StyleGAN2Synthesis) else "input.weight")
    makers = [first, *(layer.weight for _, layer in network.scored()[:-1])]
    return [_magnitude(weight.flatten(1), dim=1) for weight in makers]


@torch.no_grad()
def weight_out_scores(generator: Generator) -> list[Tensor]:
    """Mean magnitude of the weights by which the scored layer takes a channel in."""
    return [_magnitude(layer.weight, dim=(0, 2, 3)) for _, layer in generator.synthesis.scored()]


@torch.no_grad()
def style_scores(
    generator: Generator, latents: int, psi: float, seed: int, progress: Callable[[int, int], None] | None
) -> list[Tensor]:
    """Magnitude of a channel's mean style over ``latents`` codes."""
    totals = [torch.zeros(width, dtype=torch.float64) for width in generator.widths]
    for steps in _batches(generator, latents, psi, seed, progress):
        for total, step in zip(totals, steps, strict=True):
            total += step.styles().to("cpu", torch.float64).sum(dim=0)
    return [(total / latents).abs() for total in totals]


@torch.no_grad()
def activation_scores(
    generator: Generator, latents: int, psi: float, seed: int, progress: Callable[[int, int], None] | None
) -> list[Tensor]:
    """Standard deviation of a channel over the images and positions of ``latents`` codes, with the stored noise."""
    sums = [torch.zeros(3, width, dtype=torch.float64) for width in generator.widths]
    for steps in _batches(generator, latents, psi, seed, progress):
        for total, step in zip(sums, steps, strict=True):
            x = step.x.to(torch.float64)
            parts = (torch.ones_like(x), x, x.square())
            total += torch.stack([part.sum(dim=(0, 2, 3)) for part in parts]).cpu()
    spreads = []
    for count, total, squares in sums:
        spreads.append((squares / count - (total / count).square()).clamp(min=0).sqrt())
    return spreads


def _magnitude(weight: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    return weight.abs().mean(dim=dim, dtype=torch.float64).cpu()


def _batches(
    generator: Generator, latents: int, psi: float, seed: int, progress: Callable[[int, int], None] | None
) -> Iterator[list[Step]]:
    """The scored layers with their inputs, for one batch of codes after the other."""
    device = next(generator.parameters()).device
    z, c = draw_latents(generator.config, latents, stream(seed, "score"))
    for start in range(0, latents, _BATCH):
        part = slice(start, start + _BATCH)
        classes = None if c is None else c[part].to(device)
        yield _scored_steps(generator, generator.mapping(z[part].to(device), classes, psi=psi))
        if progress:
            progress(min(start + _BATCH, latents), latents)


def _scored_steps(generator: Generator, ws: Tensor) -> list[Step]:
    scored = {id(layer) for _, layer in generator.synthesis.scored()}
    routine = walk(generator, ws)
    steps = [next(routine)]
    while len(steps) < layer_count(generator):
        steps.append(routine.send(output_of(steps[-1])))
    return [step for step in steps if id(step.layer) in scored]
