"""Where the GPU experiments run: the GPU of this machine, or for a dry run its CPU with kernels in the host emulator.

The dry run has the same plan with tiny networks. Its figures mean nothing; it shows that every part of the plan works.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import torch

from ...errors import MissingCapabilityError
from ...export.fused.cuda import CudaGenerator, UpsampleMethods
from ...export.runners.cuda import CapturedGenerator
from ...kernels.cuda.calls import KernelCall
from ...kernels.cuda.launch import launch
from ..candidates.device_steps import cuda_event
from ..candidates.loading import require_gpu

DRY_TESTS = "tests/benchmarks/experiments/test_gpu.py"  # quick to collect; what it has for GPUs skips on a CPU


@dataclass(frozen=True)
class Machine:
    """A device, and how work is launched on it, timed and captured."""

    device: torch.device
    launch: Callable[[KernelCall, torch.device], None]
    event: Callable[[], Any]
    """Returns an event with the methods of torch.cuda.Event."""
    wait: Callable[[], None]
    """Returns once all work on the device is done."""
    capture: Callable[[CudaGenerator, int], Any]
    """Returns a function of z, psi and c for one batch size, with the up-sampling methods as its ``methods``."""
    compiler: str
    """The backend of torch.compile."""
    tests: tuple[str, ...]
    """Files of the tests to run on this machine."""

    @property
    def is_gpu(self) -> bool:
        """Whether the figures mean anything."""
        return self.device.type == "cuda"


def gpu_machine() -> Machine:
    """Return the current GPU. Raises MissingCapabilityError without one."""
    require_gpu("this experiment")
    device = torch.device("cuda", torch.cuda.current_device())
    return Machine(device, launch, cuda_event, torch.cuda.synchronize, CapturedGenerator, "inductor", ("tests",))


@contextmanager
def emulated_machine() -> Iterator[Machine]:
    """Yield this CPU, on which our operators run their kernels in the host emulator of the tests.

    Raises MissingCapabilityError outside a checkout, which alone has the emulator, and without a C++ compiler.
    """
    try:
        host = import_module("tests.kernels.host")
    except ModuleNotFoundError as error:
        remedy = "Run it in the root folder of a checkout."
        raise MissingCapabilityError("--dry-run needs the host emulator of the tests", remedy) from error
    with host.compiled_emulator() as run:
        yield emulated(run, partial(host.emulated_operators, run))


def emulated(run: Callable[[KernelCall], None], operators: Callable[[], AbstractContextManager[Any]]) -> Machine:
    """Return this CPU, with kernels launched by ``run``, also those of our operators within ``operators()``."""
    return Machine(
        torch.device("cpu"), lambda call, device: run(call), HostEvent, lambda: None, partial(Uncaptured, operators),
        "eager", (DRY_TESTS,),
    )  # fmt: skip


class HostEvent:
    """An event of the host's clock, with the methods of torch.cuda.Event."""

    def record(self) -> None:
        self.seconds = time.perf_counter()

    def synchronize(self) -> None:
        """Do nothing: on a CPU all work before is done."""

    def elapsed_time(self, later: HostEvent) -> float:
        """Return the milliseconds until ``later``."""
        return (later.seconds - self.seconds) * 1e3


class Uncaptured:
    """A generator without a graph, called like CapturedGenerator."""

    def __init__(
        self, operators: Callable[[], AbstractContextManager[Any]], network: CudaGenerator, batch: int
    ) -> None:
        self.operators, self.network = operators, network
        self.methods: UpsampleMethods = {}

    def __call__(self, z: torch.Tensor, psi: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
        with self.operators():
            return self.network(z, psi, c, self.methods)  # type: ignore[no-any-return]
