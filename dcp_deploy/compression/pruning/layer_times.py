"""Predict how long a network of other widths takes on this device, by timing three of them layer by layer.

Each layer's time is fitted by a + b f + c f^2 over networks of f = 1, 1/2 and 1/4 of the widths, with no coefficient
below zero. a is the cost of starting the layer. b goes to its channels (moving memory), c to the product of its input
and output channels (multiplying). Torch's own kernels are timed; an engine fuses layers and is faster, but the order
of layers by cost is much the same.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from ...generators import Generator, GeneratorConfig
from ...generators.latents import draw_latents, stream
from ..layers import walk
from .budget import Cost

FRACTIONS = (1.0, 0.5, 0.25)
ROUNDS = 5


@torch.no_grad()
def latency_cost(generator: Generator, *, batch: int = 1) -> Cost:
    """Return milliseconds per call of ``batch`` images on the generator's device, as a function of the widths."""
    config, device = generator.config, next(generator.parameters()).device
    tables = []
    for fraction in FRACTIONS:
        widths = tuple(max(1, round(fraction * width)) for width in config.widths)
        entries, times = _layer_times(replace(config, widths=widths), device, batch)
        tables.append(times)
    constant, linear, product = 0.0, np.zeros(len(config.widths)), np.zeros(len(config.widths) - 1)
    for (inputs, outputs), measured in zip(entries, np.stack(tables, axis=1), strict=True):
        a, b, c = _fit(measured)
        constant += a
        if inputs is None:
            constant += b + c
        elif outputs is None:  # a toRGB: three output channels, whatever the widths
            linear[inputs] += (b + c) / config.widths[inputs]
        else:
            linear[outputs] += b / config.widths[outputs]
            product[inputs] += c / (config.widths[inputs] * config.widths[outputs])
    return Cost(constant, linear, product)


def _fit(measured: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the non-negative a, b, c of one layer from its times at :data:`FRACTIONS`."""
    from scipy.optimize import nnls

    fractions = np.array(FRACTIONS)
    found: NDArray[np.float64] = nnls(np.stack([np.ones(3), fractions, fractions**2], axis=1), measured)[0]
    return found


def _layer_times(
    config: GeneratorConfig, device: torch.device, batch: int
) -> tuple[list[tuple[int | None, int | None]], NDArray[np.float64]]:
    """Return for the mapping network and every layer the indices of its widths (in, out), and its shortest time in ms.

    Work between two layers counts for the second.
    """
    with torch.random.fork_rng(devices=[]):  # the caller's random state stays as it is
        network = Generator(config).to(device).eval()
    z, c = draw_latents(config, batch, stream(0, "times"), device)
    rounds = []
    for _ in range(ROUNDS):
        stamps, entries, below = [_now(device)], list[tuple[int | None, int | None]]([(None, None)]), 0
        ws = network.mapping(z, c)
        stamps.append(_now(device))
        for step in walk(network, ws):
            _ = step.output  # computes the layer
            stamps.append(_now(device))
            entries.append((below if step.outputs is None else step.outputs - 1, step.outputs))
            below = below if step.outputs is None else step.outputs
        rounds.append(np.diff(stamps))
    return entries, np.min(rounds, axis=0)


def _now(device: torch.device) -> float:
    """Return milliseconds of a steady clock, once all work on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * time.perf_counter()
