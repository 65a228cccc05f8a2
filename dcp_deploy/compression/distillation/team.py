"""Train with several processes, one for each GPU (or on the CPU, for tests), connected by Lightning Fabric.

Fabric selects the devices, connects the processes and sums tensors over them. Its wrapper of a network is not used: it
requires one ``forward`` before each backward pass, while a step here calls mapping and synthesis separately, twice, and
takes second derivatives. Instead the gradients of an update are summed in one message (:meth:`.Team.sum_gradients`).
"""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

import torch
from torch import Tensor, nn

from ...errors import DcpDeployError, MissingCapabilityError, UsageError

WAIT = timedelta(hours=2)  # until the others give up waiting for the first, which alone measures quality and writes
_JOIN_SECONDS = 60


@dataclass(frozen=True)
class Team:
    """The processes that train together: this one is ``rank`` of ``size``. ``add`` sums a tensor over all of them.

    Every process holds the same networks and takes every ``size``-th sample of a batch, from its rank on. All must call
    ``add``, and the methods that use it, equally often and in the same order.
    """

    rank: int = 0
    size: int = 1
    add: Callable[[Tensor], Tensor] = lambda tensor: tensor

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum each gradient over the processes, all in one message."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        total = self.add(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = torch.split(total, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def any(self, flag: bool, device: torch.device) -> bool:
        """Return whether ``flag`` is true in any process."""
        return flag if self.size == 1 else bool(self.add(torch.tensor(float(flag), device=device)).item())


ALONE = Team()

Work = Callable[[torch.device, Team], None]


@contextmanager
def join_team(devices: int, device: torch.device, work: Work) -> Iterator[tuple[Team, torch.device]]:
    """Start ``devices - 1`` processes that do ``work`` while the block does the same in this one.

    Yields this process's team and device. Raises UsageError when ``work`` cannot be pickled, MissingCapabilityError
    when GPUs or Lightning Fabric are missing, DcpDeployError when a process ended early.
    """
    _check(devices, device)
    try:
        content = pickle.dumps(work)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UsageError(
            f"data, perceptual or mask cannot be sent to other processes: {error}",
            "Use an ImageSet, functions of a module, or one device.",
        ) from error
    from lightning_fabric.plugins.environments.lightning import find_free_network_port

    context = multiprocessing.get_context("spawn")
    processes: list[SpawnProcess] = []
    connections: list[Connection] = []
    port, threads = find_free_network_port(), torch.get_num_threads()
    try:
        for rank in range(1, devices):
            ours, theirs = context.Pipe()
            arguments = (rank, devices, device.type, port, threads, theirs, content)
            processes.append(context.Process(target=_member, args=arguments, daemon=True))
            connections.append(ours)
            processes[-1].start()
            theirs.close()
        _await_all(processes, connections)
        with _connected(0, devices, device.type, port) as joined:
            yield joined
        for process in processes:
            process.join(_JOIN_SECONDS)
    except RuntimeError as error:  # what a lost connection raises
        _raise_if_ended(processes, error)
        raise
    finally:
        for process in processes:
            process.kill()
            process.join()


def _check(devices: int, device: torch.device) -> None:
    if devices < 1:
        raise UsageError(f"devices must be at least 1, got {devices}", "Give 1 to train in this process alone.")
    if importlib.util.find_spec("lightning_fabric") is None:
        raise MissingCapabilityError(
            f"training on {devices} devices needs Lightning Fabric", "Install it: pip install 'dcp-deploy[train]'"
        )
    if device.type == "cuda" and (found := torch.cuda.device_count()) < devices:
        raise MissingCapabilityError(f"cannot use {devices} GPUs: this machine has {found}", f"Use at most {found}.")


def _await_all(processes: list[SpawnProcess], connections: list[Connection]) -> None:
    """Wait until every process is about to connect; connecting itself would wait long for one that died."""
    missing = list(connections)
    while missing:
        ready = wait([*missing, *(process.sentinel for process in processes)])
        _raise_if_ended(processes, None)
        missing = [connection for connection in missing if connection not in ready]


def _raise_if_ended(processes: list[SpawnProcess], cause: Exception | None) -> None:
    # A connection may break a moment before its process is gone.
    ended = wait([process.sentinel for process in processes], timeout=0 if cause is None else 5)
    for rank, process in enumerate(processes, start=1):
        if process.sentinel in ended:
            process.join()  # its exit code is known a moment after its sentinel
            raise DcpDeployError(
                f"the process of device {rank} ended (exit code {process.exitcode})",
                "See its messages above. Run the same command again to resume from the last checkpoint.",
            ) from cause


def _member(rank: int, size: int, kind: str, port: int, threads: int, parent: Connection, content: bytes) -> None:
    """Run every process but the first, which alone receives signals and stops the others."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    work: Work = pickle.loads(content)
    parent.send(rank)
    try:
        with _connected(rank, size, kind, port) as (team, device):
            work(device, team)
    except KeyboardInterrupt:
        pass  # the whole team stops together; the first process reports why
    except DcpDeployError as error:
        raise SystemExit(error.exit_code) from None


def _end_with_parent() -> None:
    """End this process when the first one ends, even by SIGKILL; else it would wait for hours for the next message."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


@contextmanager
def _connected(rank: int, size: int, kind: str, port: int) -> Iterator[tuple[Team, torch.device]]:
    """Join the team's process group within the block; afterwards leave it and restore the environment."""
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

    class Place(LightningEnvironment):
        creates_processes_externally = True  # they run already
        main_address, main_port = "127.0.0.1", port

        def local_rank(self) -> int:
            return rank

    place = Place()
    place.set_global_rank(rank)
    place.set_world_size(size)
    before = {name: os.environ.get(name) for name in ("MASTER_ADDR", "MASTER_PORT")}
    backend = "nccl" if kind == "cuda" else "gloo"
    strategy = DDPStrategy(cluster_environment=place, process_group_backend=backend, timeout=WAIT)
    fabric = Fabric(accelerator=kind, devices=size, strategy=strategy)
    log = logging.getLogger("lightning_fabric")
    level = log.level
    log.setLevel(logging.WARNING)  # hides that processes connect
    try:
        fabric.launch()
    finally:
        log.setLevel(level)
    try:
        yield Team(rank, size, lambda tensor: fabric.all_reduce(tensor, reduce_op="sum")), fabric.device  # type: ignore[arg-type, return-value]
    finally:
        torch.distributed.destroy_process_group()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
