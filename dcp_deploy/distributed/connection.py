"""Connect processes by Lightning Fabric, on whichever machines they run."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import DcpDeployError, MissingCapabilityError
from .team import Team, Wait

if TYPE_CHECKING:
    from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
    from torch.distributed import Store  # type: ignore[attr-defined]  # public, not declared so

WAIT = timedelta(hours=2)  # until the others give up waiting for the first, which alone measures quality and writes


def check_fabric(purpose: str) -> None:
    """Raise MissingCapabilityError if Lightning Fabric is not installed."""
    if importlib.util.find_spec("lightning_fabric") is None:
        raise MissingCapabilityError(f"{purpose} needs Lightning Fabric", "Install it: pip install 'dcp-deploy[train]'")


@contextmanager
def connected(
    place: ClusterEnvironment, processes: int, *, gpus: bool, store: Store | None = None
) -> Iterator[tuple[Team, torch.device]]:
    """Connect the processes of ``place`` within the block, ``processes`` on each machine, one GPU each or none.

    They find each other through ``store``; without it through one that the first process or torchrun serves. Yields
    this process's team and device. Tensors on the CPU can be sent in both cases. The environment is restored in the
    end.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    before = {name: os.environ.get(name) for name in ("MASTER_ADDR", "MASTER_PORT")}
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    strategy = DDPStrategy(cluster_environment=place, process_group_backend=backend, timeout=WAIT)
    machines = place.world_size() // processes
    fabric = Fabric(
        accelerator="cuda" if gpus else "cpu", devices=processes, num_nodes=machines, strategy=strategy
    )  # fmt: skip
    log = logging.getLogger("lightning_fabric")
    level = log.level
    log.setLevel(logging.WARNING)  # hides that processes connect
    try:
        if store is not None:  # Fabric has no argument for it, and keeps the group that is there
            store.set_timeout(WAIT)
            torch.distributed.init_process_group(
                backend, store=store, rank=place.global_rank(), world_size=place.world_size(), timeout=WAIT
            )
        fabric.launch()
    finally:
        log.setLevel(level)
    try:
        yield Team(fabric.global_rank, fabric.world_size, _start_sum), fabric.device
    finally:
        torch.distributed.destroy_process_group()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _start_sum(tensor: Tensor) -> Wait:
    work = torch.distributed.all_reduce(tensor, async_op=True)
    return lambda: work.wait()


def is_lost_connection(error: BaseException) -> bool:
    """Return whether the error is what a message raises if another process ended."""
    lost = isinstance(error, torch.distributed.DistError) or "gloo" in str(error) or "Connection " in str(error)
    return isinstance(error, RuntimeError) and lost


def lost_connection(what: str) -> DcpDeployError:
    """Return the error for a process that ended without a word."""
    again = "Run the same command again to resume from the last checkpoint."
    return DcpDeployError(what, f"See its messages above. {again}")
