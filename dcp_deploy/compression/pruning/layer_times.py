"""How long a network of other widths would take on this device: from timing three of them, layer by layer.

Each layer's time is fitted by a + b f + c f^2 over networks of f = 1, 1/2 and 1/4 of the widths, with no coefficient
below zero: a is what starting it costs, b goes to its channels (what moves memory), c to the product of its input and
output channels (what multiplies). Torch's own kernels are timed; an engine fuses and is faster, but the order of
layers by cost is much the same.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...generators import Generator, GeneratorConfig
from ...generators.latents import draw_latents, stream
from ..layers import Step, layer_count, output_of, walk
from .budget import Cost

FRACTIONS = (1.0, 0.5, 0.25)
ROUNDS = 5


@torch.no_grad()
def latency_cost(generator: Generator, *, batch: int = 1) -> Cost:
    """Milliseconds per call of ``batch`` images on the generator's device, as a function of the widths."""
    config, device = generator.config, next(generator.parameters()).device
    tables, widths = [], []
    for fraction in FRACTIONS:
        widths.append([max(1, round(fraction * width)) for width in config.widths])
        tables.append(_layer_times(replace(config, widths=tuple(widths[-1])), device, batch))
    # [layers, 3]: a, b, c of every layer, the mapping network first.
    times = np.array([[layer[1] for layer in table] for table in tables]).T
    entries = [layer[0] for layer in tables[0]]
    constant, linear, product = 0.0, np.zeros(len(config.widths)), np.zeros(len(config.widths) - 1)
    for (inputs, outputs), measured in zip(entries, times, strict=True):
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
    """Non-negative a, b, c of one layer from its times at :data:`FRACTIONS`."""
    from scipy.optimize import nnls

    fractions = np.array(FRACTIONS)
    found: NDArray[np.float64] = nnls(np.stack([np.ones(3), fractions, fractions**2], axis=1), measured)[0]
    return found


def _layer_times(
    config: GeneratorConfig, device: torch.device, batch: int
) -> list[tuple[tuple[int | None, int | None], float]]:
    """For the mapping network and every layer: its entries of the widths (in, out) and the least of some times, ms."""
    with torch.random.fork_rng(devices=[]):  # the caller's random state stays as it is
        network = Generator(config).to(device).eval()
    z, c = draw_latents(config, batch, stream(0, "times"))
    z, c = z.to(device), None if c is None else c.to(device)
    best: list[float] = []
    entries: list[tuple[int | None, int | None]] = []
    for _ in range(ROUNDS):
        clock = _Clock(device)
        ws = network.mapping(z, c)
        times, entries = [clock.lap()], [(None, None)]
        step: Step = next(routine := walk(network, ws))
        last: int | None = None
        for index in range(layer_count(network)):  # what lies between two layers counts for the second
            out: Tensor = output_of(step)
            times.append(clock.lap())
            inputs = (last if last is not None else 0) if step.outputs is None else step.outputs - 1
            entries.append((inputs, step.outputs))
            last = step.outputs if step.outputs is not None else last
            if index + 1 < layer_count(network):
                step = routine.send(out)
        best = times if not best else [min(pair) for pair in zip(best, times, strict=True)]
    return list(zip(entries, best, strict=True))


class _Clock:
    """Milliseconds between laps, with all work on the device done."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._last = device, 0.0
        self.lap()

    def lap(self) -> float:
        """Time since the last lap."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        passed, self._last = now - self._last, now
        return 1000 * passed
