"""A distillation step as one CUDA graph.

At demo size a step is more than a thousand kernels of a few microseconds: launching them one by one takes the host
several times as long as the GPU computes. Captured once, they are launched together. Only steps that are all alike can
be captured, and only what the GPU does: the latents are drawn on the host and copied in.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from .batch import Batch, draw_batch
from .optimizers import set_rates
from .state import TrainingSetup, TrainingState
from .step import as_numbers, train_step, update_all

_WARM_UP = 3  # plain steps before: memory, libraries and the optimiser's state are then as they stay
_ONE_AT_A_TIME = threading.Lock()  # captures in other threads' streams would see each other's allocations


def can_be_captured(run: TrainingSetup) -> bool:
    """Whether every step is the same work on the GPU: no discriminator, no path length, no noise drawn on the host,
    no mask computed elsewhere, no updates that a loss scale skips, no other process to wait for."""
    config = run.config
    alike = not config.has_discriminator and not config.path_length and config.noise != "random"
    alike = alike and config.precision != "fp16" and run.mask is None
    return alike and run.device.type == "cuda" and run.team.size == 1


class StepGraph:
    """Call it in place of :func:`train_step`, with the same results to the rounding of the same kernels."""

    def __init__(self) -> None:
        self._graph: torch.cuda.CUDAGraph | None = None
        self._plain_steps = 0

    def __call__(self, state: TrainingState, run: TrainingSetup) -> dict[str, float]:
        """One step; returns its losses by name."""
        if self._plain_steps < _WARM_UP:
            self._plain_steps += 1
            return self._plain_step(state, run)
        batch = draw_batch(run, state.step)
        if self._graph is None:
            self._capture(state, run, batch.to(run.device))
        self._inputs.copy_(batch)
        set_rates(state, run)
        assert self._graph is not None
        self._graph.replay()
        state.step += 1
        return as_numbers(self._values, run)

    def _plain_step(self, state: TrainingState, run: TrainingSetup) -> dict[str, float]:
        """On a stream beside the caller's, as capturing needs it."""
        caller, stream = torch.cuda.current_stream(run.device), torch.cuda.Stream(run.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(caller)
        with torch.cuda.stream(stream):
            values = train_step(state, run)
        caller.wait_stream(stream)
        return values

    def _capture(self, state: TrainingState, run: TrainingSetup, inputs: Batch) -> None:
        """Record a step that reads ``inputs``; nothing is computed yet."""
        self._inputs = inputs
        state.student_optimizer.zero_grad(set_to_none=True)
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(run.device)  # type: ignore[no-untyped-call]
        with _ONE_AT_A_TIME, torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            self._values: dict[str, Tensor] = update_all(state, run, self._inputs)
            state.update_ema(run.config.ema_decay)
        self._graph = graph
