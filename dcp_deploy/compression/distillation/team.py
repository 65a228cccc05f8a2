"""Train with several processes, one for each GPU (or, to test it, on the CPU), joined by Lightning Fabric.

Fabric picks the devices, connects the processes and adds up what they send. Its wrapper of a network is not used: that
wants one ``forward`` before each backward pass, and a step here calls mapping and synthesis apart, twice, and derives
derivatives. Instead the gradients of an update are summed in one message (:meth:`.Team.sum_gradients`).
"""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import os
import pickle
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import DcpDeployError, MissingCapabilityError, UsageError

WAIT = timedelta(hours=2)  # for the first process, which alone measures quality and writes; then the others give up
_JOIN_SECONDS = 60


@dataclass(frozen=True)
class Team:
    """The processes that train together: this one is ``rank`` of ``size``. ``add`` sums a tensor over all of them.

    Every process holds the same networks and takes every ``size``-th sample of a batch, from its rank on. All must call
    ``add``, and what uses it, equally often and in the same order.
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
        """Whether any process says so."""
        return flag if self.size == 1 else bool(self.add(torch.tensor(float(flag), device=device)).item())


ALONE = Team()

Work = Callable[[torch.device, Team], None]


@contextmanager
def join_team(devices: int, device: torch.device, work: Work) -> Iterator[tuple[Team, torch.device]]:
    """Start ``devices - 1`` processes that do ``work`` while the block does the same in this one.

    Yields this process's team and device. ``work`` is sent by pickle. Raises UsageError when that cannot be,
    MissingCapabilityError when there are fewer GPUs or no Lightning Fabric, DcpDeployError when a process ended early.
    """
    _check(devices, device)
    try:
        content = pickle.dumps(work)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UsageError(
            f"data, perceptual or mask cannot be sent to other processes: {error}",
            "use an ImageSet, or functions of a module, or one device",
        ) from error
    context = multiprocessing.get_context("spawn")
    processes: list[SpawnProcess] = []
    signs: list[Connection] = []
    port, threads = _free_port(), torch.get_num_threads()
    try:
        for rank in range(1, devices):
            here, there = context.Pipe()
            seat = (rank, devices, device.type, port, threads)
            processes.append(context.Process(target=_member, args=(seat, there, content), daemon=True))
            signs.append(here)
            processes[-1].start()
            there.close()
        _await_all(processes, signs)
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
        raise UsageError(f"devices must be at least 1, got {devices}")
    if importlib.util.find_spec("lightning_fabric") is None:
        raise MissingCapabilityError(
            f"training on {devices} devices needs Lightning Fabric", "pip install 'dcp-deploy[train]'"
        )
    if device.type == "cuda":
        found = torch.cuda.device_count()
        if found < devices:
            raise MissingCapabilityError(
                f"{devices} GPUs are asked for, and this machine has {found}", f"use at most {found}"
            )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_all(processes: list[SpawnProcess], signs: list[Connection]) -> None:
    """Until every process says that it is about to connect; connecting itself would wait long for one that died."""
    missing = list(signs)
    while missing:
        ready = wait([*missing, *(process.sentinel for process in processes)])
        _raise_if_ended(processes, None)
        missing = [sign for sign in missing if sign not in ready]


def _raise_if_ended(processes: list[SpawnProcess], cause: Exception | None) -> None:
    # A connection may break a moment before its process is gone.
    ended = wait([process.sentinel for process in processes], timeout=0 if cause is None else 5)
    for rank, process in enumerate(processes, start=1):
        if process.sentinel in ended:
            process.join()  # its exit code is known a moment after its sentinel
            raise DcpDeployError(
                f"the process of device {rank} ended (exit code {process.exitcode})",
                "its own words are above; the same command goes on from the last checkpoint",
            ) from cause


def _member(seat: tuple[int, int, str, int, int], sign: Connection, content: bytes) -> None:
    """The life of every process but the first, which alone hears signals and tells the others when to stop."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    rank, size, kind, port, threads = seat
    torch.set_num_threads(threads)
    work: Work = pickle.loads(content)
    sign.send(rank)
    try:
        with _connected(rank, size, kind, port) as (team, device):
            work(device, team)
    except KeyboardInterrupt:
        pass  # all of the team stop together; the first process says why
    except DcpDeployError as error:
        raise SystemExit(error.exit_code) from None


def _end_with_parent() -> None:
    """Whatever ended the first process, even SIGKILL, ends this one: it would wait for the other's share for hours."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


@contextmanager
def _connected(rank: int, size: int, kind: str, port: int) -> Iterator[tuple[Team, torch.device]]:
    """Join the team's process group; leave it, and the environment, as before."""
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    before = {name: os.environ.get(name) for name in ("MASTER_ADDR", "MASTER_PORT")}
    backend = "nccl" if kind == "cuda" else "gloo"
    strategy = DDPStrategy(cluster_environment=_seat(rank, size, port), process_group_backend=backend, timeout=WAIT)
    fabric = Fabric(accelerator=kind, devices=size, strategy=strategy)
    log = logging.getLogger("lightning_fabric")
    level = log.level
    log.setLevel(logging.WARNING)  # that two processes connect is nothing to tell
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


def _seat(rank: int, size: int, port: int) -> Any:
    """Where this process stands, in Fabric's words."""
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment

    class Seat(LightningEnvironment):
        creates_processes_externally = True  # they are there already
        main_address, main_port = "127.0.0.1", port

        def local_rank(self) -> int:
            return rank

    seat = Seat()
    seat.set_global_rank(rank)
    seat.set_world_size(size)
    return seat
