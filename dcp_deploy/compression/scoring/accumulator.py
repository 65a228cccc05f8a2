"""Partial sums of a scoring run, in memory and in a file from which a killed run continues."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ...distributed.team import ALONE, Team
from ...errors import CorruptFileError
from ...files import write_bytes
from ...generators import Generator
from ..identity import run_key

_SECONDS = 30.0  # between two writes


class ScoreAccumulator:
    """Sums over batches, float64 tensors of the given shapes, kept apart for even and odd batches.

    For most scores they are the scores themselves, one vector [C] per layer. ``shapes`` may give such a C alone.

    ``done`` counts the batches of all processes of ``team``, ``latents`` the latents in them. Each process adds its
    own, and :meth:`collect` moves the sums to the first. If ``path`` holds sums of the same generator and settings,
    they are continued. The first process alone reads and writes it. Raises CorruptFileError when that file cannot be
    read.
    """

    def __init__(
        self,
        shapes: Sequence[int | Sequence[int]],
        generator: Generator,
        settings: dict[str, Any],
        path: str | os.PathLike[str] | None,
        team: Team = ALONE,
    ) -> None:
        self.halves = [[torch.zeros(shape, dtype=torch.float64) for shape in shapes] for _ in range(2)]
        self.done = self.latents = 0
        self._team = team
        self._path, self._saved = None if path is None else Path(path), time.monotonic()
        self._key = run_key({"settings": settings, "config": generator.config.to_dict()}, {"generator": generator})
        if self._path is not None and team.rank == 0 and self._path.exists():
            self._load(self._path)
        if team.size > 1:
            own = torch.tensor([self.done, self.latents])  # the others have read nothing
            self.done, self.latents = map(int, team.add(own).tolist())

    def add(self, layers: Sequence[Tensor] | None, latents: Sequence[int]) -> None:
        """Add a batch of each process: ``layers`` is that of this one, None if there were too few for all.

        ``latents`` are those of every batch, in the order of the processes. If there is a path, the sums are written to
        it about every half minute.
        """
        if layers is not None:
            for total, layer in zip(self.halves[(self.done + self._team.rank) % 2], layers, strict=True):
                total += layer
        self.done, self.latents = self.done + len(latents), self.latents + sum(latents)
        if self._path is not None and self._team.any(time.monotonic() - self._saved >= _SECONDS):
            self._saved = time.monotonic()
            self.collect()
            if self._team.rank == 0:
                self._save(self._path)

    def collect(self) -> None:
        """Move the sums of all processes to the first; the others keep zeros."""
        if self._team.size == 1:
            return
        for total in [layer for half in self.halves for layer in half]:
            self._team.start(total)()
            if self._team.rank:
                total.zero_()

    def _save(self, path: Path) -> None:
        tensors = {f"{half}.{i:02d}": layer for half in (0, 1) for i, layer in enumerate(self.halves[half])}
        facts = {"key": self._key, "done": self.done, "latents": self.latents}
        write_bytes(path, save(tensors, {"progress": json.dumps(facts)}))
        self._saved = time.monotonic()  # writing may have taken long

    def discard(self) -> None:
        """Remove the file, once the scores are complete."""
        if self._path is not None and self._team.rank == 0:
            self._path.unlink(missing_ok=True)

    def _load(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {})["progress"])
                if facts["key"] != self._key:
                    return
                layers = range(len(self.halves[0]))
                self.halves = [[file.get_tensor(f"{half}.{i:02d}") for i in layers] for half in (0, 1)]
                self.done, self.latents = int(facts["done"]), int(facts["latents"])
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise CorruptFileError(
                f"{path} does not hold the sums of a scoring run: {error}", "Delete it; scoring then starts over."
            ) from error


def sum_of(parts: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Return the sums over ``parts``, each of which holds tensors of the same shapes."""
    return [torch.stack(same).sum(dim=0) for same in zip(*parts, strict=True)]
