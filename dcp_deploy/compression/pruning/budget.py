"""Widths per layer that keep the most diversity for a given cost, in place of the same share everywhere.

Raw scores cannot be compared across layers: they are squared gradients by weights, and multiplying a layer's weights
by a number divides its gradients by that number while demodulation leaves every image as it is; layers also differ in
how many weights a mean runs over. What does not depend on such scales is the *share* of its layer's score that a set
of channels holds. Layers follow each other, so what one of them loses no other can give back: shares multiply, and
the sum of their logarithms is what a plan keeps. The logarithm also makes the last channels of a layer the dearest.

Greedy: as long as the cost is above the target, drop the group of channels that costs the least logarithm for what it
saves. Costs are sums over layers of a + b Ci + c Co + d Ci Co.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...errors import UsageError
from ...generators import GeneratorConfig, count_macs, count_parameters


@dataclass(frozen=True)
class Cost:
    """``constant + sum_l linear[l] w[l] + sum_l product[l] w[l] w[l + 1]`` of the widths w."""

    constant: float
    linear: NDArray[np.float64]
    product: NDArray[np.float64]

    def __call__(self, widths: Sequence[int]) -> float:
        """The cost of these widths."""
        w = np.asarray(widths, dtype=np.float64)
        return float(self.constant + self.linear @ w + self.product @ (w[:-1] * w[1:]))

    def slope(self, widths: Sequence[int], layer: int) -> float:
        """What one channel of ``layer`` costs while all others stay."""
        below = self.product[layer - 1] * widths[layer - 1] if layer else 0.0
        above = self.product[layer] * widths[layer + 1] if layer + 1 < len(widths) else 0.0
        return float(self.linear[layer] + below + above)


def macs_cost(config: GeneratorConfig) -> Cost:
    """Multiply-accumulates per image."""
    return _counted(config, count_macs)


def parameters_cost(config: GeneratorConfig) -> Cost:
    """Learnable numbers."""
    return _counted(config, count_parameters)


def _counted(config: GeneratorConfig, count: Callable[[GeneratorConfig], int]) -> Cost:
    """The coefficients, from counting networks of one or two channels per layer."""
    layers = len(config.widths)

    def at(*wider: int) -> int:
        return count(replace(config, widths=tuple(2 if i in wider else 1 for i in range(layers))))

    base, single = at(), [at(i) for i in range(layers)]
    product = [at(i, i + 1) - single[i] - single[i + 1] + base for i in range(layers - 1)]
    beside = [sum(product[max(i - 1, 0) : i + 1]) for i in range(layers)]  # products that entry i takes part in
    linear = [one - base - both for one, both in zip(single, beside, strict=True)]
    return Cost(base - sum(linear) - sum(product), np.array(linear, dtype=float), np.array(product, dtype=float))


def widths_within(scores: Sequence[Tensor], cost: Cost, target: float, align: int) -> tuple[int, ...]:
    """Channels to keep in each layer, the highest-scored ones, for a cost of at most ``target``.

    Widths are multiples of ``align``, or all channels of a layer. Raises UsageError when one group per layer is still
    too much.
    """
    # kept[l][n]: the logarithm of the share that the n highest scores of layer l hold.
    kept = [_log_shares(layer) for layer in scores]
    widths = [len(layer) for layer in scores]
    while cost(widths) > target:
        best, best_price = None, math.inf
        for layer, width in enumerate(widths):
            fewer = width - (width % align or align)
            if fewer < align:
                continue
            saved = cost.slope(widths, layer) * (width - fewer)
            price = (kept[layer][width] - kept[layer][fewer]) / saved if saved > 0 else math.inf
            if price < best_price:
                best, best_price = (layer, fewer), price
        if best is None:
            raise UsageError(
                f"the target cannot be reached: one group of {align} channels in every layer still costs "
                f"{cost(widths) / target:.2f} times as much",
                "allow more, or a smaller --align",
            )
        widths[best[0]] = best[1]
    return tuple(widths)


def _log_shares(layer: Tensor) -> NDArray[np.float64]:
    """Entry n: log of the share of the layer's score that its n highest channels hold, from n = 0 (minus infinity)."""
    ranked = np.sort(layer.numpy() - min(float(layer.min()), 0.0))[::-1]
    total = ranked.sum()
    # A layer of zeros tells nothing apart: there every channel counts the same.
    shares = np.cumsum(ranked / total if total > 0 else np.full(len(ranked), 1 / len(ranked)))
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.concatenate([[0.0], np.minimum(shares, 1.0)])))
