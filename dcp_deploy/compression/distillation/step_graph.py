"""A distillation step as one CUDA graph.

At demo size a step is more than a thousand kernels of a few microseconds, and launching them one by one takes the host
several times as long as the GPU computes. Captured once, they are launched together. Only steps that are all alike can
be captured, and only work on the GPU: latents are drawn on the host and copied in.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from .batch import Batch, draw_batch
from .optimizers import set_rates
from .state import TrainingSetup, TrainingState
from .step import as_numbers, train_step, update_all

_WARM_UP = 3  # plain steps first: afterwards memory, libraries and the optimiser's state no longer change
_ONE_AT_A_TIME = threading.Lock()  # captures in other threads' streams would see each other's allocations


def can_be_captured(setup: TrainingSetup) -> bool:
    """Return whether every step is the same work on the GPU.

    That excludes a discriminator, path length, noise drawn on the host, a mask computed elsewhere, losses of users,
    updates skipped by a loss scale, and several processes.
    """
    config = setup.config
    alike = not config.gan and not config.path_length and config.noise != "random"
    alike = alike and config.precision != "fp16" and setup.mask is None and not setup.own_losses
    return alike and setup.device.type == "cuda" and setup.team.size == 1


class StepGraph:
    """A replacement of :func:`train_step`, with the same results to the rounding of the same kernels."""

    def __init__(self) -> None:
        self._graph: torch.cuda.CUDAGraph | None = None
        self._plain_steps = 0

    def __call__(self, state: TrainingState, setup: TrainingSetup) -> dict[str, float]:
        """Take one step; return its losses by name."""
        if self._plain_steps < _WARM_UP:
            self._plain_steps += 1
            return self._plain_step(state, setup)
        batch = draw_batch(setup, state.step)
        if self._graph is None:
            self._capture(state, setup, batch.to(setup.device))
        self._inputs.copy_(batch)
        set_rates(state, setup)
        assert self._graph is not None
        self._graph.replay()
        state.step += 1
        return as_numbers(self._values, setup)

    def _plain_step(self, state: TrainingState, setup: TrainingSetup) -> dict[str, float]:
        """Take a step outside of the caller's stream, as capturing requires."""
        caller, stream = torch.cuda.current_stream(setup.device), torch.cuda.Stream(setup.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(caller)
        with torch.cuda.stream(stream):
            values = train_step(state, setup)
        caller.wait_stream(stream)
        return values

    def _capture(self, state: TrainingState, setup: TrainingSetup, inputs: Batch) -> None:
        """Record a step that reads ``inputs``; nothing is computed yet."""
        self._inputs = inputs
        state.student.zero_grad(set_to_none=True)
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(setup.device)  # type: ignore[no-untyped-call]
        with _ONE_AT_A_TIME, torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            self._values: dict[str, Tensor] = update_all(state, setup, self._inputs)
            state.update_ema(setup.config.ema_decay)
        self._graph = graph
