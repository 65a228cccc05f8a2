"""Curves and pictures of a training for TensorBoard."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ...errors import MissingCapabilityError
from .state import TrainingState
from .training_run import Run

GRIDS = 20  # at most, over a training
COLUMNS = 8


class Board:
    """Writes what a history entry holds as scalars and, now and then, the teacher's images above the student's."""

    def __init__(self, folder: Path, step: int) -> None:
        """``step``: where the training starts; what an earlier run wrote of later ones is hidden."""
        if importlib.util.find_spec("tensorboard") is None:
            raise MissingCapabilityError(
                f"writing TensorBoard's files to {folder} needs tensorboard", "pip install 'dcp-deploy[train]'"
            )
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else 0)
        self._next_grid = step

    def add(self, state: TrainingState, run: Run, entry: Mapping[str, float]) -> None:
        """One history entry, on the disk when this returns: a killed run loses none."""
        step = state.step
        for name, value in entry.items():
            if name != "step":
                self._writer.add_scalar(name, value, step)
        self._writer.add_scalar("learning_rate", run.config.learning_rate(step), step)
        if step >= self._next_grid or step == run.config.steps:
            self._next_grid = step + max(run.config.steps // GRIDS, 1)
            self._writer.add_image("teacher above student", _grid(state, run), step)
        self._writer.flush()

    def close(self) -> None:
        """No more entries."""
        self._writer.close()


@torch.no_grad()
def _grid(state: TrainingState, run: Run) -> Tensor:
    """uint8 [3, 2 R, 8 R]: the first probe latents by the teacher, and by the average below."""
    z, c, images = run.probe
    drawn = state.ema(z[:COLUMNS], None if c is None else c[:COLUMNS])
    rows = [torch.cat(list(row), dim=2) for row in (images[:COLUMNS], drawn)]
    return (torch.cat(rows, dim=1) * 127.5 + 128).clamp(0, 255).to(torch.uint8).cpu()
