"""Several processes, or threads that behave like them, each with its place in a team."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, TypeVar

import pytest
from torch import Tensor

from dcp_deploy.checkpoints import save_generator
from dcp_deploy.distributed.team import Team

from ..compression.conftest import make_small_teacher, pruned

Result = TypeVar("Result")
MEMBER = Path(__file__).with_name("member.py")
CONTEXT = multiprocessing.get_context("forkserver")


class Exchange:
    """What threads send each other: the same calls in the same order, each a sum of the tensors of all."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.calls: list[int] = []
        """Bytes of every message."""
        self._barrier = threading.Barrier(size, timeout=30)
        self._sent: dict[int, Tensor] = {}

    def team(self, rank: int) -> Team:
        def start(tensor: Tensor) -> Callable[[], object]:
            self._sent[rank] = tensor.clone()
            self._barrier.wait()
            total = sum(self._sent[index] for index in range(self.size))
            self._barrier.wait()
            if rank == 0:
                self.calls.append(tensor.numel() * tensor.element_size())
            assert isinstance(total, Tensor) and total.shape == tensor.shape and total.dtype == tensor.dtype
            tensor.copy_(total)
            return lambda: None

        return Team(rank, self.size, start)


def together(size: int, work: Callable[[Team], Result], exchange: Exchange | None = None) -> list[Result]:
    """Return what ``work`` returns in each of ``size`` threads that form a team."""
    exchange = exchange or Exchange(size)
    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(work, [exchange.team(rank) for rank in range(size)]))


# ---- processes ----


@dataclass(frozen=True)
class Ended:
    code: int | None
    text: str


def start_process(environment: dict[str, str], words: Sequence[object], log: Path, agent: str = "") -> Any:
    """Start ``dcp-deploy WORDS`` in this environment, as a fork of a process that has imported everything."""
    CONTEXT.set_forkserver_preload(["dcp_deploy.cli.stages", "dcp_deploy.compression", "lightning_fabric.fabric"])
    environment = {"OMP_NUM_THREADS": "1", "FOLDER": str(log.parent), **environment}
    job = {"ENVIRONMENT": environment, "WORDS": [str(word) for word in words], "LOG": str(log), "AGENT": agent}
    process = CONTEXT.Process(target=runpy.run_path, args=(str(MEMBER), job))
    process.start()
    return process


def ended(process: ForkServerProcess, log: Path, seconds: float = 200) -> Ended:
    """Wait for a process; return its exit code and everything that it printed."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
    return Ended(process.exitcode, log.read_text() if log.exists() else "")


def slurm(rank: int, nodes: int, each: int, port: int) -> dict[str, str]:
    """Return the environment that srun gives to a process."""
    return {
        "SLURM_JOB_ID": "1234", "SLURM_JOB_NAME": "students", "SLURM_NTASKS": str(nodes * each),
        "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank % each), "SLURM_NODEID": str(rank // each),
        "SLURM_NNODES": str(nodes), "SLURM_STEP_TASKS_PER_NODE": f"{each}(x{nodes})", "SLURM_NODELIST": "node[1-2]",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the launcher that may have started these tests themselves."""
    for name in os.environ:
        if name.startswith(("SLURM_", "TORCHELASTIC_")) or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The files of a small teacher and of a student pruned from it."""
    folder, teacher = tmp_path_factory.mktemp("networks"), make_small_teacher()
    student = pruned(teacher)
    save_generator(teacher, folder / "teacher.safetensors")
    save_generator(student, folder / "pruned.safetensors")
    return folder / "teacher.safetensors", folder / "pruned.safetensors"
