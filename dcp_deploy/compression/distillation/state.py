"""Everything a distillation carries from step to step, and its checkpoint: one safetensors file, written whole."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from ...errors import CorruptFileError
from ...files import atomic_path
from ...generators import Discriminator, Generator
from ...metrics.published import Lpips
from ..masks import Mask
from . import losses
from .augmentation import Augmentation
from .feature_adversary import FeatureDiscriminator
from .real_images import ImageSource
from .recipe import DistillConfig
from .team import ALONE, Team

_FORMAT = "dcp-deploy training state 3"


@dataclass(frozen=True)
class Best:
    """The average's weights after the step where a figure was lowest."""

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
    feature_discriminator: FeatureDiscriminator | None = None
    feature_optimizer: torch.optim.Adam | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    student_scaler: GradScaler = field(default_factory=lambda: GradScaler("cpu", enabled=False))  # of fp16 alone
    discriminator_scaler: GradScaler = field(default_factory=lambda: GradScaler("cpu", enabled=False))

    @torch.no_grad()
    def update_ema(self, decay: float) -> None:
        """``ema = decay * ema + (1 - decay) * student``, over parameters; buffers do not train."""
        averages, values = list(self.ema.parameters()), list(self.student.parameters())
        torch._foreach_lerp_(averages, values, 1 - decay)  # type: ignore[arg-type]  # a few kernels for all of them

    def networks(self) -> dict[str, nn.Module]:
        """Those that the run has, by their names here."""
        names = ("student", "ema", "discriminator", "feature_discriminator")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def optimizers(self) -> dict[str, torch.optim.Adam]:
        """Those that the run has, by their names here."""
        names = ("student_optimizer", "discriminator_optimizer", "feature_optimizer")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the state under unique names, in memory shared with it."""
        named = {"path_mean": self.path_mean}
        for prefix, network in self.networks().items():
            named |= {f"{prefix}.{name}": tensor for name, tensor in network.state_dict().items()}
        for prefix, optimizer in self.optimizers().items():
            for index, entries in optimizer.state_dict()["state"].items():
                named |= {f"{prefix}.{index}.{name}": tensor for name, tensor in entries.items()}
        return named | {f"best.{name}": tensor for name, tensor in (self.best.weights if self.best else {}).items()}

    def is_finite(self) -> bool:
        """Whether every number of the state is finite: a state that is not must not replace a good checkpoint."""
        return all(bool(tensor.isfinite().all()) for tensor in self.tensors().values())


def save_state(state: TrainingState, path: str | os.PathLike[str], key: str) -> None:
    """Write the state to ``path``, atomically, marked with the ``key`` of the run that it belongs to."""
    metadata = {
        "format": _FORMAT,
        "key": key,
        "step": str(state.step),
        "history": json.dumps(state.history, allow_nan=False),
        "sums": json.dumps(state.sums, allow_nan=False),
        "scalers": json.dumps([scaler.state_dict() for scaler in _scalers(state)]),
        "augmentation": json.dumps(asdict(state.augmentation), allow_nan=False),
        "best": json.dumps(state.best and [state.best.step, state.best.value], allow_nan=False),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors().items()}
    with atomic_path(path) as temporary:
        # Written by Python, so that a full disk is an OSError; safetensors' own writer raises an error of its own.
        temporary.write_bytes(save(tensors, metadata))


def load_state(state: TrainingState, path: str | os.PathLike[str], key: str) -> None:
    """Set ``state``, built for the same run, to what ``path`` holds, to the last bit.

    Raises CorruptFileError when the file is damaged, belongs to a run with another key, or does not fit.
    """
    remedy = "delete it to start this distillation from the beginning"
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT or metadata.get("key") != key:
                raise CorruptFileError(f"{path} is not a checkpoint of this run (key {key[:12]})", remedy)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        _restore(state, tensors, metadata)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise CorruptFileError(f"the checkpoint {path} cannot be read: {error}", remedy) from error


def _restore(state: TrainingState, tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> None:
    for prefix, network in state.networks().items():
        network.load_state_dict(_below(prefix, tensors))
    for prefix, optimizer in state.optimizers().items():
        entries: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _below(prefix, tensors).items():
            index, entry = name.split(".")
            entries.setdefault(int(index), {})[entry] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": entries})
    state.path_mean.copy_(tensors["path_mean"])
    state.step = int(metadata["step"])
    state.history = json.loads(metadata["history"])
    state.sums = json.loads(metadata["sums"])
    state.augmentation = Augmentation(**json.loads(metadata["augmentation"]))
    for scaler, values in zip(_scalers(state), json.loads(metadata["scalers"]), strict=True):
        if values:
            scaler.load_state_dict(values)
    if best := json.loads(metadata["best"]):
        weights = {name: tensor.to(state.path_mean.device) for name, tensor in _below("best", tensors).items()}
        state.best = Best(step=best[0], value=best[1], weights=weights)


def _scalers(state: TrainingState) -> tuple[GradScaler, GradScaler]:
    return state.student_scaler, state.discriminator_scaler


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {name[len(start) :]: tensor for name, tensor in tensors.items() if name.startswith(start)}


@dataclass(frozen=True)
class TrainingSetup:
    """What stays fixed during a run."""

    config: DistillConfig
    teacher: Generator
    perceptual: losses.FeatureMaps | Lpips | None
    data: ImageSource | None
    directions: Tensor  # [n, w_dim]
    probe: tuple[Tensor, Tensor | None, Tensor]  # latents, classes, the teacher's images of them
    device: torch.device
    mask: Mask | None = None
    guide: Discriminator | None = None
    team: Team = ALONE

    def autocast(self) -> AbstractContextManager[None]:
        """For networks that are not ours: the run's precision, as far as autocast finds that safe."""
        if self.config.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.config.dtype)
