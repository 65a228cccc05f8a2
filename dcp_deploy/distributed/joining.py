"""Do work in several processes: those that a launcher started, else processes started here."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..progress import Progress
from .launched import idle_crew, launched_size
from .spawned import Work, spawned_team
from .team import ALONE, Team


def helpers() -> int:
    """Return how many processes of a launch wait for work, with this one; 1 if it runs alone."""
    crew = idle_crew()
    return 1 if crew is None else crew.team.size


def check_devices(devices: int, device: torch.device | str) -> None:
    """Raise UsageError for settings that a program started by torchrun or srun leaves to its launcher."""
    count = launched_size()
    if count == 1:
        return
    if devices != 1:
        raise UsageError(
            f"--devices {devices}, and a launcher has started {count} processes",
            "Leave out --devices: torchrun --nproc-per-node or srun --ntasks-per-node decides.",
        )
    if torch.device(device).index:
        raise UsageError(
            f"--device {device}, and a launcher has started {count} processes",
            "Use --device cuda: every process takes the GPU of its own number on its machine.",
        )


def join_team(devices: int, device: torch.device, work: Work) -> AbstractContextManager[tuple[Team, torch.device]]:
    """Let other processes do ``work`` within the block, which does the same; it yields this process's team and device.

    They are the idle processes of a launch, else ``devices - 1`` new ones on this machine. ``work`` is called with
    their device and team. Raises UsageError when ``work`` cannot be sent to them, MissingCapabilityError for missing
    GPUs or packages, DcpDeployError when a process ended early, and what one raised.
    """
    crew = idle_crew()
    return spawned_team(devices, device, work) if crew is None else crew.helping(device, work)


class Rows(Protocol):
    """A function that computes every ``team.size``-th part of a table, from part ``team.rank`` on: float32 [n, D]."""

    def __call__(self, device: torch.device, team: Team, progress: Progress | None = None) -> Iterable[Tensor]: ...


def gather_rows(rows: Rows, device: torch.device, progress: Progress | None = None) -> Tensor:
    """Return all parts of a table in order, float32 [N, D], computed by the idle processes of a launch or by this one.

    ``rows`` is sent to the others, so it holds functions of modules, and networks through :func:`portable`.
    """
    if helpers() == 1:
        return ALONE.gather(rows(device, ALONE, progress))
    with join_team(1, device, partial(_gather_along, rows)) as (team, own_device):
        return team.gather(rows(own_device, team, progress))


def _gather_along(rows: Rows, device: torch.device, team: Team) -> None:
    team.gather(rows(device, team))


_Network = TypeVar("_Network", bound=nn.Module)


def portable(network: _Network) -> _Network:
    """Return the network as it can be sent to the processes of a launch: on the CPU. Alone, return it as it is."""
    return network if helpers() == 1 else on(network, torch.device("cpu"))


def on(network: _Network, device: torch.device) -> _Network:
    """Return the network if it is on ``device``, else a copy there."""
    return network if next(network.parameters()).device == device else copy.deepcopy(network).to(device)
