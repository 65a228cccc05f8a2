"""Second moments of what every layer reads: of the features themselves, and of how they change along a direction.

A convolution responds with d[b,o] (W_o x), where x is its modulated input (styles times features) and d the
demodulation of latent b and output o. Here d is taken apart. Its size over many latents, d_o, belongs to the weights.
What is left varies with the latent alone, f_b = sqrt(mean_o (d[b,o] / d_o)^2), and belongs to x. So a response is one
linear map of f_b x. Scaling an output's weights changes neither, since demodulation cancels it. A toRGB is not
demodulated: its d and f are 1. All taps of a kernel are taken to see the same moments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...generators import Generator
from ...generators.latents import draw_latents, stream
from ...generators.ops import demodulation
from ..layers import Place, Step, places, walk
from .elimination import Regression

POSITIONS = 1024  # most positions of an image that enter the moments; larger images have a random part of theirs
NEGLIGIBLE = 1e-10  # of the energy of the values; less is rounding, since features are float32
_LEVEL_LATENTS = 1000  # which the size of a demodulation is measured on; they need no images


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer with the weights by which it reads its input channels, float64 [Co, k k, C], times their demodulation.

    ``levels`` float64 [Co] is the size of the demodulation. ``folded`` [at most C, C] has the same Gram matrix as the
    rows of ``weights`` together.
    """

    place: Place
    weights: Tensor
    levels: Tensor
    folded: Tensor

    @property
    def channels(self) -> int:
        """How many channels it reads, C."""
        return self.weights.shape[2]


@torch.no_grad()
def readers_of(generator: Generator, psi: float, seed: int) -> list[Reader]:
    """Return every layer of ``generator``, in the order of computation."""
    z, c = draw_latents(
        generator.config, _LEVEL_LATENTS, stream(seed, "demodulation"), next(generator.parameters()).device
    )
    ws, readers = generator.mapping(z, c, psi=psi), []
    for place in places(generator):
        step = Step(place.layer, ws, ws[:, place.code], place.outputs)  # its styles do not depend on its input
        levels = _demodulations(step).square().mean(dim=0).sqrt()
        weights = place.layer.weight.detach().to(torch.float64).flatten(2).transpose(1, 2) * levels[:, None, None]
        readers.append(Reader(place, weights, levels, folded(weights)))
    return readers


def folded(weights: Tensor) -> Tensor:
    """Return [min(Co k k, C), C] of the same Gram matrix as the rows of ``weights`` [Co, k k, C] together."""
    upper: Tensor = torch.linalg.qr(weights.flatten(0, 1), mode="r").R
    return upper


def _demodulations(step: Step) -> Tensor:
    """Return d [B, Co] in float64: ones for a toRGB."""
    if step.outputs is None:
        return step.w.new_ones(len(step.w), step.layer.weight.shape[0], dtype=torch.float64)
    return demodulation(step.layer.weight, step.styles()).to(torch.float64)


def empty_moments(readers: Sequence[Reader]) -> list[Tensor]:
    """Return zeros of the shapes of :func:`direction_moments`."""
    sizes = [size for reader in readers for size in (reader.channels + 1, reader.channels)]
    return [torch.zeros(size, size, dtype=torch.float64) for size in sizes]


@torch.no_grad()
def direction_moments(
    generator: Generator, readers: Sequence[Reader], ws: Tensor, moves: Tensor, *, batch: int, source: torch.Generator
) -> list[Tensor]:
    """Return two sums for every reader, over latents and positions: of values and of changes, float64 on the CPU.

    ``ws`` [B, num_ws, w_dim] are codes, each moved by its row of ``moves`` [B, w_dim], with the same stored noise.
    Values are [C + 1, C + 1], of f_b (x, 1), so that the last row holds sums and count. Changes are [C, C], of
    f_b' x' - f_b x, divided by the energy of the response to them, tr(W D W^T): the moves of one call count as one,
    however many pixels they change. Changes that are rounding alone count as none (:data:`NEGLIGIBLE`). ``batch`` codes
    are computed at a time.
    """
    sums = [total.to(ws.device) for total in empty_moments(readers)]
    chosen: dict[int, Tensor] = {}
    for part, by in zip(torch.split(ws, batch), torch.split(moves, batch), strict=True):
        both = torch.cat([part, part + by[:, None]])
        for index, (reader, step) in enumerate(zip(readers, walk(generator, both), strict=True)):
            if index not in chosen:
                count = step.x.shape[2] * step.x.shape[3]
                chosen[index] = torch.randperm(count, generator=source)[:POSITIONS].sort().values.to(ws.device)
            base, moved = _inputs(step, reader, chosen[index]).chunk(2)
            change = (moved - base)[:, :-1].transpose(0, 1).flatten(1)
            values = base.transpose(0, 1).flatten(1)
            sums[2 * index] += values @ values.T
            sums[2 * index + 1] += change @ change.T
    for reader, values, change in zip(readers, sums[::2], sums[1::2], strict=True):
        energy = Regression(reader.folded, change).energy
        if energy > NEGLIGIBLE * Regression(reader.folded, values[:-1, :-1]).energy:
            change /= energy
        else:
            change.zero_()
    return [total.cpu() for total in sums]


def _inputs(step: Step, reader: Reader, chosen: Tensor) -> Tensor:
    """Return f_b (x, 1) at the positions ``chosen``, float64 [B, C + 1, P]."""
    factors = (_demodulations(step) / reader.levels).square().mean(dim=1).sqrt()[:, None, None]
    x = step.modulated().flatten(2)[:, :, chosen].to(torch.float64)
    return torch.cat([x, torch.ones_like(x[:, :1])], dim=1) * factors
