"""Processes that this one starts on the same machine: ``--devices N``, one for each GPU, or several on the CPU."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

import torch

from ..errors import DcpDeployError, MissingCapabilityError, UsageError
from .connection import check_fabric, connected, lost_connection
from .team import Team

_JOIN_SECONDS = 60

Work = Callable[[torch.device, Team], None]


def pickled(work: object) -> bytes:
    """Return ``work`` as bytes for another process. Raises UsageError if it cannot be sent."""
    try:
        return pickle.dumps(work)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UsageError(
            f"data, perceptual or mask cannot be sent to other processes: {error}",
            "Use an ImageSet, functions of a module, or one device.",
        ) from error


@contextmanager
def spawned_team(devices: int, device: torch.device, work: Work) -> Iterator[tuple[Team, torch.device]]:
    """Start ``devices - 1`` processes that do ``work`` while the block does the same in this one.

    Yields this process's team and device. Raises UsageError when ``work`` cannot be pickled, MissingCapabilityError
    when GPUs or Lightning Fabric are missing, DcpDeployError when a process ended early.
    """
    _check(devices, device)
    content = pickled(work)
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
    check_fabric(f"training on {devices} devices")
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
            what = f"the process of device {rank} ended (exit code {process.exitcode})"
            raise lost_connection(what) from cause


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
    """Join the team's process group within the block."""
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment

    class Place(LightningEnvironment):
        creates_processes_externally = True  # they run already
        main_address, main_port = "127.0.0.1", port

        def local_rank(self) -> int:
            return rank

    place = Place()
    place.set_global_rank(rank)
    place.set_world_size(size)
    with connected(place, size, gpus=kind == "cuda") as joined:
        yield joined
