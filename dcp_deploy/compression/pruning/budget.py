"""Choose widths per layer that keep the most of the scores for a given cost, in place of the same share everywhere.

Raw scores cannot be compared across layers. They are squared gradients by weights: multiplying a layer's weights by a
number divides its gradients by it, while demodulation leaves every image as it is. Layers also differ in how many
weights a mean runs over. The *share* of its layer's score that a set of channels holds does not depend on such scales.
Layers follow each other, so no later layer can restore what one of them loses. Shares therefore multiply, and a plan
maximises the sum of their logarithms. The logarithm also makes the last channels of a layer the most expensive.

The search is greedy: as long as the cost is above the target, it drops the group of channels that loses the least
logarithm per cost saved. Costs are sums over layers of a + b Ci + c Co + d Ci Co.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...generators import GeneratorConfig


@dataclass(frozen=True)
class Cost:
    """``constant + sum_l linear[l] w[l] + sum_l product[l] w[l] w[l + 1]`` of the widths w."""

    constant: float
    linear: NDArray[np.float64]
    product: NDArray[np.float64]

    def __call__(self, widths: Sequence[int]) -> float:
        """Return the cost of these widths."""
        w = np.asarray(widths, dtype=np.float64)
        return float(self.constant + self.linear @ w + self.product @ (w[:-1] * w[1:]))

    def slope(self, widths: Sequence[int], layer: int) -> float:
        """Return the cost of one channel of ``layer`` while all other widths stay."""
        below = self.product[layer - 1] * widths[layer - 1] if layer else 0.0
        above = self.product[layer] * widths[layer + 1] if layer + 1 < len(widths) else 0.0
        return float(self.linear[layer] + below + above)


def counted_cost(config: GeneratorConfig, count: Callable[[GeneratorConfig], int]) -> Cost:
    """Return ``count`` (of MACs or parameters) as a function of the widths.

    The coefficients follow from counting networks of one or two channels per layer.
    """
    layers = len(config.widths)

    def at(*wider: int) -> int:
        return count(replace(config, widths=tuple(2 if i in wider else 1 for i in range(layers))))

    base, single = at(), [at(i) for i in range(layers)]
    product = [at(i, i + 1) - single[i] - single[i + 1] + base for i in range(layers - 1)]
    products_with = [sum(product[max(i - 1, 0) : i + 1]) for i in range(layers)]
    linear = [one - base - products for one, products in zip(single, products_with, strict=True)]
    return Cost(base - sum(linear) - sum(product), np.array(linear, dtype=float), np.array(product, dtype=float))


def widths_within(scores: Sequence[Tensor], cost: Cost, target: float, align: int) -> tuple[int, ...]:
    """Return how many of its highest-scored channels each layer keeps, for a cost of at most ``target``.

    Widths are multiples of ``align``, or all channels of a layer. If one group per layer still costs more, the result
    is that smallest network.
    """
    log_shares = [_log_shares(layer) for layer in scores]
    widths = [len(layer) for layer in scores]
    while cost(widths) > target:
        best, best_price = None, math.inf
        for layer, width in enumerate(widths):
            fewer = width - (width % align or align)
            if fewer < align:
                continue
            saved = cost.slope(widths, layer) * (width - fewer)
            price = (log_shares[layer][width] - log_shares[layer][fewer]) / saved if saved > 0 else math.inf
            if price < best_price:
                best, best_price = (layer, fewer), price
        if best is None:
            break
        widths[best[0]] = best[1]
    return tuple(widths)


def _log_shares(layer: Tensor) -> NDArray[np.float64]:
    """Return at index n the log of the share of the layer's score that its n highest channels hold; -inf at n = 0."""
    ranked = np.sort(layer.numpy() - min(float(layer.min()), 0.0))[::-1]
    total = ranked.sum()
    # In a layer of zeros every channel counts the same.
    shares = np.cumsum(ranked / total if total > 0 else np.full(len(ranked), 1 / len(ranked)))
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.concatenate([[0.0], np.minimum(shares, 1.0)])))
