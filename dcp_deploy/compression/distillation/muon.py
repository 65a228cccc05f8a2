"""Muon, an optimiser for weights that are matrices (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/).

Its authors observe that the updates of Adam have a few large singular values, so they train a few combinations of
channels and hardly train the others. Muon makes the singular values of an update nearly equal. ``torch.optim.Muon``
does not serve here: it refuses the kernels of convolutions, and it computes in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import overload

import torch
from torch import Tensor, nn

_STEPS = 5
# Of x, x^3 and x^5. Five steps bring values from 0.01 to 1 within 0.68 and 1.14.
_QUINTIC = (3.4445, -4.775, 2.0315)


class Muon(torch.optim.Optimizer):
    """Move each weight by about ``lr`` in a step: ``W -= lr sqrt(max(rows, columns)) orthogonalised(momentum)``.

    A kernel [out, in, h, w] is the matrix [out, in h w]. The factor gives the update a root mean square of one (Liu et
    al. 2025, "Muon is scalable for LLM training"), so learning rates are as large as Adam's. ``momentum`` is the share
    of the mean gradient that a step keeps; the update looks one step ahead (Nesterov).
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float | Tensor, *, momentum: float) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update all weights that have a gradient. ``closure`` has to be None."""
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, group["lr"], group["momentum"])
        return None

    def _move(self, weight: Tensor, rate: float | Tensor, momentum: float) -> None:
        state = self.state[weight]
        if not state:
            state["mean"] = torch.zeros_like(weight)
        gradient = weight.grad
        assert gradient is not None
        state["mean"].lerp_(gradient, 1 - momentum)
        ahead = torch.lerp(gradient, state["mean"], momentum).flatten(1)
        update = orthogonalised(ahead).mul_(max(ahead.shape) ** 0.5)
        weight.sub_(update.view_as(weight) * rate)


def orthogonalised(matrix: Tensor) -> Tensor:
    """Return ``U f(S) V^T`` for ``matrix = U S V^T``, where f brings all but tiny singular values near one.

    Five steps of a Newton-Schulz iteration, ``x -> a x + b x x^T x + c (x x^T)^2 x``, which needs products alone.
    """
    a, b, c = _QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x
