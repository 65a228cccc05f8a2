"""Where a launcher put this process: ``torchrun`` and SLURM's ``srun`` say so in the environment."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment

_INTERACTIVE = ("bash", "interactive")  # names of SLURM jobs whose shell starts a program without srun
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_SLURM = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE")
_PER_MACHINE = "SLURM_NTASKS_PER_NODE"


@dataclass(frozen=True)
class Place:
    """This process is ``rank`` of ``size``, and ``local_rank`` of the ``local_size`` on its machine."""

    launcher: str
    rank: int
    size: int
    local_rank: int
    local_size: int

    def environment(self) -> ClusterEnvironment:
        """Return what tells Lightning Fabric the same."""
        from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
        from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

        if self.launcher == "torchrun":
            return TorchElasticEnvironment()
        os.environ[_PER_MACHINE] = str(self.local_size)  # Fabric requires it
        return SLURMEnvironment(auto_requeue=False)


def find_place() -> Place | None:
    """Return the place of this process, None if it runs alone.

    Raises UsageError for an environment that contradicts itself.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        place = Place("torchrun", *_numbers("torchrun", _TORCHRUN, os.environ))
    elif "SLURM_PROCID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in _INTERACTIVE:
        if os.environ.get("SLURM_NTASKS", "1") == "1":
            return None
        place = Place("srun", *_numbers("srun", _SLURM, {_PER_MACHINE: _tasks_per_machine(), **os.environ}))
    else:
        return None
    if not (0 <= place.rank < place.size and 0 <= place.local_rank < place.local_size <= place.size):
        raise UsageError(f"{place.launcher} put this process at {place}", "Start all processes anew.")
    if place.size % place.local_size:
        raise UsageError(
            f"{place.size} processes cannot be {place.local_size} on every machine",
            "Start as many on each: torchrun --nproc-per-node N, srun --ntasks-per-node N.",
        )
    return place if place.size > 1 else None


def is_first() -> bool:
    """Return whether this process is the one that prints, even if its environment is wrong otherwise."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def _numbers(launcher: str, names: tuple[str, ...], found: os._Environ[str] | dict[str, str]) -> list[int]:
    for name in names:
        if not found.get(name, "").isdecimal():
            raise UsageError(
                f"{launcher} started this process, and {name} is {found.get(name)!r}, not a number",
                "Start as many processes on each machine: torchrun --nproc-per-node N, srun --ntasks-per-node N.",
            )
    return [int(found[name]) for name in names]


def _tasks_per_machine() -> str:
    """Return N of a step with N tasks on every machine, such as "2" or "2(x4)"; else what SLURM says."""
    stated = os.environ.get("SLURM_STEP_TASKS_PER_NODE", os.environ.get("SLURM_TASKS_PER_NODE", ""))
    uniform = re.fullmatch(r"(\d+)(?:\(x\d+\))?", stated)
    return uniform[1] if uniform else stated
