"""What stays fixed during a distillation, what changes from step to step, and its checkpoint (one safetensors file)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from ...distributed.team import ALONE, Team
from ...errors import CorruptFileError
from ...files import write_bytes
from ...generators import Discriminator, Generator
from ...metrics.published import Lpips
from ..masks import Mask
from . import losses
from .muon import Muon
from .own_losses import OwnLoss
from .rare import CodeDistances
from .real_images import ImageSource
from .recipe import DistillConfig

_FORMAT = "dcp-deploy training state 4"


@dataclass(frozen=True)
class TrainingSetup:
    """What stays fixed while a student is distilled."""

    config: DistillConfig
    teacher: Generator
    perceptual: losses.FeatureMaps | Lpips | None
    data: ImageSource | None
    directions: Tensor  # [n, w_dim]
    probe: tuple[Tensor, Tensor | None, Tensor]  # latents, classes, and the teacher's images of them
    device: torch.device
    mask: Mask | None = None
    team: Team = ALONE
    own_losses: tuple[OwnLoss, ...] = ()
    distances: CodeDistances | None = None  # for rare latents, if the recipe has any

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context in which networks of other projects run in the precision of the training."""
        if self.config.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.config.dtype)


@dataclass(frozen=True)
class Best:
    """The moving average's weights after the step where the watched figure was lowest."""

    step: int
    value: float
    weights: dict[str, Tensor]


@dataclass
class TrainingState:
    """Networks, optimisers and records after ``step`` finished steps.

    Random numbers and real images are drawn by step number, so ``step`` stands for their position too.
    """

    student: Generator
    ema: Generator
    discriminator: Discriminator
    student_optimizer: torch.optim.Adam
    discriminator_optimizer: torch.optim.Adam
    path_mean: Tensor  # [], running mean of the path length
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    sums: dict[str, list[float]] = field(default_factory=dict)  # losses since the last history entry: [sum, count]
    best: Best | None = None
    kernel_optimizer: Muon | None = None  # of the student's convolutions, if student_optimizer has only the rest
    student_scaler: GradScaler = field(default_factory=lambda: GradScaler("cpu", enabled=False))  # for fp16 only
    discriminator_scaler: GradScaler = field(default_factory=lambda: GradScaler("cpu", enabled=False))

    @torch.no_grad()
    def update_ema(self, decay: float) -> None:
        """Set ``ema = decay * ema + (1 - decay) * student`` for all parameters; buffers do not train."""
        averages, values = list(self.ema.parameters()), list(self.student.parameters())
        torch._foreach_lerp_(averages, values, 1 - decay)  # type: ignore[arg-type]  # few kernels for all of them

    def networks(self) -> dict[str, nn.Module]:
        """Return the networks that this run has, by attribute name."""
        return self._present("student", "ema", "discriminator")

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return the optimisers that this run has, by attribute name."""
        return self._present("student_optimizer", "kernel_optimizer", "discriminator_optimizer")

    def student_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return the optimisers that share the student's weights."""
        return list(self._present("student_optimizer", "kernel_optimizer").values())

    def scalers(self) -> tuple[GradScaler, GradScaler]:
        """Return the scales of the losses in fp16, the student's and the discriminator's."""
        return self.student_scaler, self.discriminator_scaler

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors of the state under unique names; they share its memory."""
        named = {"path_mean": self.path_mean}
        for prefix, network in self.networks().items():
            named |= {f"{prefix}.{name}": tensor for name, tensor in network.state_dict().items()}
        for prefix, optimizer in self.optimizers().items():
            for index, entries in optimizer.state_dict()["state"].items():
                named |= {f"{prefix}.{index}.{name}": tensor for name, tensor in entries.items()}
        return named | {f"best.{name}": tensor for name, tensor in (self.best.weights if self.best else {}).items()}

    def is_finite(self) -> bool:
        """Return whether every number of the state is finite."""
        return all(bool(tensor.isfinite().all()) for tensor in self.tensors().values())

    def _present(self, *names: str) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


# ---- the checkpoint ----


def save_state(state: TrainingState, path: str | os.PathLike[str], key: str) -> None:
    """Write the state to ``path``, atomically, with the ``key`` of the run that it belongs to."""
    metadata = {
        "format": _FORMAT,
        "key": key,
        "step": str(state.step),
        "threads": str(torch.get_num_threads()),  # they decide how sums are split
        "history": json.dumps(state.history, allow_nan=False),
        "sums": json.dumps(state.sums, allow_nan=False),
        "scalers": json.dumps([scaler.state_dict() for scaler in state.scalers()]),
        "best": json.dumps(state.best and [state.best.step, state.best.value], allow_nan=False),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors().items()}
    write_bytes(path, save(tensors, metadata))


def recorded_threads(path: str | os.PathLike[str]) -> int | None:
    """Return the CPU threads that a checkpoint was trained with; None if it cannot be read or does not say."""
    try:
        with safe_open(path, framework="pt") as file:
            threads = (file.metadata() or {}).get("threads", "")
    except (SafetensorError, OSError):
        return None  # load_state says what is wrong
    return int(threads) if threads.isdecimal() and int(threads) > 0 else None


def load_state(state: TrainingState, path: str | os.PathLike[str], key: str, team: Team = ALONE) -> None:
    """Restore ``state``, built for the same run, from the file ``path``, bit for bit.

    The first process of ``team`` alone reads the file, so no other machine needs to have it. Raises CorruptFileError
    when the file is damaged, belongs to a run with another key, or does not fit.
    """
    remedy = "Delete it to start this distillation from the beginning."
    try:
        content = Path(path).read_bytes() if team.rank == 0 else b""
    except OSError as error:
        raise CorruptFileError(f"the checkpoint {path} cannot be read: {error}", remedy) from error
    content = team.from_first(content)
    try:
        tensors, metadata = load(content), _metadata(content)
        if metadata.get("format") != _FORMAT or metadata.get("key") != key:
            raise CorruptFileError(f"{path} is not a checkpoint of this run (key {key[:12]})", remedy)
        _restore(state, tensors, metadata)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise CorruptFileError(f"the checkpoint {path} cannot be read: {error}", remedy) from error


def _metadata(content: bytes) -> dict[str, str]:
    """Return the texts beside the tensors of a safetensors file: a length, then JSON."""
    length = int.from_bytes(content[:8], "little")
    found: dict[str, str] = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    return found


def _restore(state: TrainingState, tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> None:
    def below(prefix: str) -> dict[str, Tensor]:
        start = f"{prefix}."
        return {name[len(start) :]: tensor for name, tensor in tensors.items() if name.startswith(start)}

    for prefix, network in state.networks().items():
        network.load_state_dict(below(prefix))
    for prefix, optimizer in state.optimizers().items():
        entries: dict[int, dict[str, Tensor]] = {}
        for name, tensor in below(prefix).items():
            index, entry = name.split(".")
            entries.setdefault(int(index), {})[entry] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": entries})
    state.path_mean.copy_(tensors["path_mean"])
    state.step = int(metadata["step"])
    state.history = json.loads(metadata["history"])
    state.sums = json.loads(metadata["sums"])
    for scaler, values in zip(state.scalers(), json.loads(metadata["scalers"]), strict=True):
        if values:
            scaler.load_state_dict(values)
    if best := json.loads(metadata["best"]):
        weights = {name: tensor.to(state.path_mean.device) for name, tensor in below("best").items()}
        state.best = Best(step=best[0], value=best[1], weights=weights)
