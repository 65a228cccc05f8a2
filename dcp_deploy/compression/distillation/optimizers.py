"""The optimisers of a distillation: learning rates, and updates by gradients summed over parts and processes."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from ...generators import Generator
from .muon import Muon
from .recipe import PATH_INTERVAL, R1_INTERVAL, DistillConfig
from .state import TrainingSetup, TrainingState


def set_rates(state: TrainingState, setup: TrainingSetup) -> None:
    """Set the learning rates of the step, in place where they are tensors, which a captured graph reads."""
    config = setup.config
    rate = config.learning_rate(state.step)
    shares = {
        "student_optimizer": lazy_share(config.path_length, PATH_INTERVAL),
        "kernel_optimizer": lazy_share(config.path_length, PATH_INTERVAL),
        "discriminator_optimizer": lazy_share(config.r1, R1_INTERVAL),
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


def student_optimizers(student: Generator, config: DistillConfig) -> tuple[torch.optim.Adam, Muon | None]:
    """Return the student's Adam, and Muon for the kernels of its convolutions if the recipe has it.

    The kernels of toRGB, matrices of three rows, stay with Adam.
    """
    share, kernels = lazy_share(config.path_length, PATH_INTERVAL), list[nn.Parameter]()
    if config.optimizer == "muon":
        kernels = [one for one in student.synthesis.parameters() if one.ndim == 4 and len(one) > 3]
    chosen = {id(one) for one in kernels}
    others = [one for one in student.parameters() if id(one) not in chosen]
    muon = Muon(kernels, _first_rate(kernels[0]), momentum=config.beta1) if kernels else None
    return adam(others, share, config.beta1), muon


def adam(parameters: Iterable[nn.Parameter], share: float, beta1: float = 0.0) -> torch.optim.Adam:
    """Return Adam with momentum ``beta1`` and the memory of the second moment shortened to ``share``.

    On a GPU it is capturable by a CUDA graph.
    """
    parameters, betas = list(parameters), (beta1, 0.99**share)
    if not parameters[0].is_cuda:
        return torch.optim.Adam(parameters, betas=betas)
    return torch.optim.Adam(parameters, lr=_first_rate(parameters[0]), betas=betas, fused=True, capturable=True)


def _first_rate(parameter: nn.Parameter) -> Tensor | float:
    """Return a learning rate until :func:`set_rates` sets it: on a GPU a tensor, which a captured graph reads."""
    return torch.zeros([], device=parameter.device) if parameter.is_cuda else 0.0


def backward(loss: Tensor, scaler: GradScaler) -> None:
    scaler.scale(loss).backward()  # type: ignore[no-untyped-call]


def apply_gradients(optimizers: Iterable[torch.optim.Optimizer], scaler: GradScaler) -> None:
    """Update a network by its gradients, those of all parts and processes, then clear them.

    fp16 gradients are scaled to stay in range. If one overflows all the same, its optimiser's update is skipped and the
    scale halved. For fp32, and for bf16 with its equal range, the scaler does nothing.
    """
    for optimizer in optimizers:
        scaler.step(optimizer)
        optimizer.zero_grad(set_to_none=True)
    scaler.update()


class Sums(dict[str, Tensor]):
    """Losses by name, added up over parts by their share."""

    def add(self, values: dict[str, Tensor], share: float) -> None:
        for name, value in values.items():
            self[name] = self.get(name, 0.0) + value.detach() * share
