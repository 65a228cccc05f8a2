"""Backward elimination: which channels a linear map can do without, if the weights of the others are fitted again.

A layer reads channels x, with second moments M = E[x x^T], by weights R: it responds with R x. If it keeps only the
channels S, least squares finds the weights that come closest. What cannot be rebuilt of the response is

    tr(R M R^T) - tr(R M[:, S] M[S, S]^-1 M[S, :] R^T).

Elimination drops the channel whose loss makes that error grow the least, fits the others again, and goes on until none
is left (Hassibi and Stork's optimal brain surgeon, for whole channels and with the exact second moments). With
P = M^-1 and refitted weights R, dropping channel c costs |R_c|^2 / P_cc. Both follow by a rank-one downdate:

    R <- R - R_c P_c / P_cc        P <- P - P_c^T P_c / P_cc.

This is exact: no system is solved after the first inverse, and C channels take O(C^3) operations a reader. Several
layers that read the same channels add their costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Regression:
    """How a layer responds to channels: by ``weights`` float64 [R, C], to ``moment`` float64 [C, C].

    ``moment`` is symmetric and positive definite. Weights count by their Gram matrix alone: any rotation of their rows
    is the same regression.
    """

    weights: Tensor
    moment: Tensor

    @property
    def energy(self) -> Tensor:
        """The second moment of the response, a scalar: tr(W M W^T)."""
        return (self.weights @ self.moment * self.weights).sum()


def elimination_order(readers: Sequence[Regression]) -> Tensor:
    """Return the channels int64 [C] in the order in which they are dropped; of equal ones the lower index goes first.

    After every quarter of the channels that are left, the matrices shrink to the others: the same result in half the
    time. Within a quarter nothing waits for the result of a step, so a GPU works through it without pause.
    """
    weights = [reader.weights.clone() for reader in readers]
    inverses = [_inverse(reader.moment) for reader in readers]
    left, order = torch.arange(weights[0].shape[1], device=weights[0].device), []
    while len(left):
        dropped = _drop_several(weights, inverses, math.ceil(len(left) / 4))
        stay = torch.ones_like(left, dtype=torch.bool).index_fill_(0, dropped, False)
        order.append(left[dropped])
        left, weights = left[stay], [w[:, stay] for w in weights]
        inverses = [p[stay][:, stay] for p in inverses]
    return torch.cat(order)


def _drop_several(weights: Sequence[Tensor], inverses: Sequence[Tensor], count: int) -> Tensor:
    """Drop ``count`` channels in place, one after the other, and return their places [count]."""
    gone = torch.zeros(len(inverses[0]), dtype=torch.bool, device=inverses[0].device)
    places = []
    for _ in range(count):
        costs = [w.square().sum(dim=0) / p.diagonal() for w, p in zip(weights, inverses, strict=True)]
        place = torch.stack(costs).sum(dim=0).masked_fill(gone, torch.inf).argmin().reshape(1)
        for w, p in zip(weights, inverses, strict=True):
            _drop(w, p, place)
        gone.index_fill_(0, place, True)
        places.append(place)
    return torch.cat(places)


def _drop(weights: Tensor, inverse: Tensor, channel: Tensor) -> None:
    """Remove one channel [1] in place: what it carried goes to the others as far as they can carry it."""
    row = inverse.index_select(0, channel)[0]
    scaled = row / row.index_select(0, channel)
    weights.addr_(weights.index_select(1, channel)[:, 0], scaled, alpha=-1)
    inverse.addr_(row, scaled, alpha=-1)
    weights.index_fill_(1, channel, 0.0)  # exactly, whatever rounding left there
    inverse.index_fill_(0, channel, 0.0).index_fill_(1, channel, 0.0)
    inverse.diagonal().index_fill_(0, channel, 1.0)


def _inverse(moment: Tensor) -> Tensor:
    return torch.cholesky_inverse(torch.linalg.cholesky(moment))


def costs_along(readers: Sequence[Regression], order: Tensor) -> Tensor:
    """Return what each drop of any given ``order`` [C] adds to the error, float64 [C], summed over the readers.

    The sum over the last n entries is what the last n channels rebuild, and over all it is the readers' energy. One
    Cholesky factorisation gives all of them: with the channels in the order in which they would be *added*, its rows
    are the parts of each that those before it do not have.
    """
    added = order.flip(0)
    total = torch.zeros(len(order), dtype=torch.float64, device=order.device)
    for reader in readers:
        factor = torch.linalg.cholesky(reader.moment[added][:, added])
        cross = (reader.moment @ reader.weights.T)[added]
        total += torch.linalg.solve_triangular(factor, cross, upper=False).square().sum(dim=1)
    return total.flip(0)


def scores_along(order: Tensor, costs: Tensor) -> Tensor:
    """Return scores float64 [C] by channel that rise along ``order`` [C] and have the sum of ``costs`` [C].

    A cost can be below an earlier one: if two channels matter only by their difference, dropping the first costs much,
    and the second then nothing. Such costs are replaced by their mean (isotonic regression). Sums over the last n
    channels are exact, unless the cut falls between channels that share a mean. Equal scores differ by one unit in the
    last place, so that sorting returns ``order``.
    """
    from scipy.optimize import isotonic_regression

    rising = isotonic_regression(costs.clamp(min=0).cpu().numpy()).x
    for i in range(1, len(rising)):
        rising[i] = max(rising[i], np.nextafter(rising[i - 1], np.inf))
    scores = torch.empty(len(order), dtype=torch.float64)
    scores[order.cpu()] = torch.from_numpy(rising)
    return scores
