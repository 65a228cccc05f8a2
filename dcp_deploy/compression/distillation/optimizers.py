"""The optimisers of a distillation: learning rates, and updates by gradients summed over parts and processes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from .recipe import PATH_INTERVAL, R1_INTERVAL
from .state import TrainingSetup, TrainingState

UNSCALED = GradScaler("cpu", enabled=False)  # for a network that computes in float32 in every precision


def set_rates(state: TrainingState, setup: TrainingSetup) -> None:
    """Set the learning rates of the step, in place where they are tensors, which a captured graph reads."""
    config = setup.config
    rate = config.learning_rate(state.step)
    shares = {
        "student_optimizer": lazy_share(config.path_length, PATH_INTERVAL),
        "discriminator_optimizer": lazy_share(config.r1, R1_INTERVAL),
        "feature_optimizer": 1.0,
    }
    for name, optimizer in state.optimizers().items():
        for group in optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate * shares[name])
            else:
                group["lr"] = rate * shares[name]


def lazy_share(weight: float, interval: int) -> float:
    """Return the share of plain updates when every ``interval``-th step adds one for a regulariser with a weight.

    Learning rate and Adam's memory shrink by it (Karras et al. 2020, StyleGAN2, appendix B).
    """
    return interval / (interval + 1) if weight else 1.0


def adam(network: nn.Module, share: float, beta1: float = 0.0) -> torch.optim.Adam:
    """Return Adam with momentum ``beta1`` and the memory of the second moment shortened to ``share``.

    On a GPU it is capturable by a CUDA graph.
    """
    parameters, betas = list(network.parameters()), (beta1, 0.99**share)
    if not parameters[0].is_cuda:
        return torch.optim.Adam(parameters, betas=betas)
    rate = torch.zeros([], device=parameters[0].device)
    return torch.optim.Adam(parameters, lr=rate, betas=betas, fused=True, capturable=True)


def backward(loss: Tensor, scaler: GradScaler) -> None:
    scaler.scale(loss).backward()  # type: ignore[no-untyped-call]


def apply_gradients(setup: TrainingSetup, network: nn.Module, optimizer: torch.optim.Adam, scaler: GradScaler) -> None:
    """Update ``network`` by the gradients summed over all parts and processes, then clear them.

    fp16 gradients are scaled to stay in range. If one overflows all the same, the update is skipped and the scale
    halved. For fp32, and for bf16 with its equal range, the scaler does nothing.
    """
    setup.team.sum_gradients(network.parameters())
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)


class Sums(dict[str, Tensor]):
    """Losses by name, added up over parts by their share."""

    def add(self, values: dict[str, Tensor], share: float) -> None:
        for name, value in values.items():
            self[name] = self.get(name, 0.0) + value.detach() * share
