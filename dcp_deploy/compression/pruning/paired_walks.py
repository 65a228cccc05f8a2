"""Two generators of the same layers, walked together layer by layer for many latents, within bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...generators import Generator
from ..layers import Step, nth_step, walk

MEMORY = 1e9  # bytes of features that may wait for the next layer
_HELD = 3  # feature maps of about its input's size that a waiting step holds
_BATCH = 4


class PairedWalks:
    """The layers of ``student`` and ``teacher`` for codes ``ws`` [B, num_ws, w_dim], a few codes at a time.

    Layers are asked for in their order, some left out or repeated; a layer may change until a later one is asked for.
    Features wait for the next layer, so that each layer is computed once. What does not fit into :data:`MEMORY` is
    computed again from the first layer on, to the same bits.
    """

    def __init__(self, student: Generator, teacher: Generator, ws: Tensor) -> None:
        self._generators = student, teacher
        self._parts = torch.split(ws, _BATCH)
        self._walks: list[Iterator[tuple[Step, Step]] | None] = [
            zip(walk(student, part), walk(teacher, part), strict=True) for part in self._parts
        ]
        self._pairs: list[tuple[Step, Step] | None] = [None] * len(self._parts)
        self._index = -1

    def at(self, index: int) -> Iterator[tuple[Step, Step]]:
        """Yield layer ``index`` of student and teacher, part by part."""
        ahead, self._index = index - self._index, index
        waiting = 0.0
        for number, part in enumerate(self._parts):
            pairs = self._walks[number]
            if pairs is None:
                student, teacher = self._generators
                yield nth_step(student, part, index), nth_step(teacher, part, index)
                continue
            pair = self._pairs[number]
            for _ in range(ahead):
                pair = next(pairs)
            assert pair is not None  # the first layer is ahead of nothing
            yield pair
            waiting += _HELD * sum(step.x.nbytes for step in pair)
            fits = waiting <= MEMORY
            self._walks[number], self._pairs[number] = (pairs, pair) if fits else (None, None)
