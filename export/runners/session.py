"""The Session: an ONNX file loaded into a runtime, and the check that it is a generator of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import InputError

if TYPE_CHECKING:
    from ..fused.generator import ImageForm

Values = tuple[str, list[Any]]
"""Type ("tensor(float)") and shape of an input or output; a dynamic dimension is not an int."""


@dataclass(frozen=True)
class Session:
    """An ONNX file ready to run.

    ``facts``: the file's metadata. ``run``: from arrays by the inputs' names to the output ``image``; may be called
    from many threads at once.
    """

    path: Path
    backend: str
    inputs: Mapping[str, Values]
    outputs: Mapping[str, Values]
    facts: Mapping[str, str]
    run: Callable[[Mapping[str, npt.NDArray[Any]]], npt.NDArray[Any]]

    @property
    def batch(self) -> int | None:
        """The only batch that the file runs, None if any."""
        sizes = {shape[0] for _, shape in self.inputs.values() if shape and isinstance(shape[0], int)}
        return max(sizes, default=None)

    def draw(self, feeds: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Return the output ``image``, of several calls if the file has a fixed batch. InputError if it cannot run."""
        try:
            return self.run(feeds) if self.batch is None else _in_calls(self.run, feeds, self.batch)
        except Exception as error:  # the exception types of the runtimes have no common base class
            runtime, batch = self.backend.partition("-")[0], len(next(iter(feeds.values())))
            reason = (str(error).splitlines() or [""])[0]
            raise InputError(f"{runtime} cannot run {self.path} on a batch of {batch}: {reason}") from error

    def image(self, problems: list[str]) -> tuple[tuple[int, int], ImageForm]:
        """Return (height, width) and image format. Raises InputError for ``problems``, of the inputs or others."""
        kind, shape = self.outputs.get("image", ("missing", [None] * 4))
        image: ImageForm = "uint8" if kind == "tensor(uint8)" else "float"
        size, channels = (shape[1:3], shape[3:]) if image == "uint8" else (shape[2:], shape[1:2])
        fixed = len(size) == 2 and all(isinstance(side, int) for side in size)
        if kind not in ("tensor(uint8)", "tensor(float)") or channels != [3] or not fixed:
            wrong = f"output 'image' is {kind} {shape}, not uint8 [B, H, W, 3] or float [B, 3, H, W]"
            problems = [*problems, wrong]
        if problems:
            message = f"{self.path} is not a generator of ours: {'; '.join(problems)}"
            raise InputError(message, "Make it with: dcp-deploy export")
        return (size[0], size[1]), image


def _in_calls(
    run: Callable[[Mapping[str, npt.NDArray[Any]]], npt.NDArray[Any]], feeds: Mapping[str, npt.NDArray[Any]], batch: int
) -> npt.NDArray[Any]:
    """Run batches of exactly ``batch`` rows; the last one is filled up with its last row, whose images are dropped."""
    rows = len(next(iter(feeds.values())))
    images = []
    for start in range(0, rows, batch):
        part = {name: values[start : start + batch] for name, values in feeds.items()}
        lacking = batch - len(next(iter(part.values())))
        if lacking:
            part = {name: np.concatenate([v, np.repeat(v[-1:], lacking, axis=0)]) for name, v in part.items()}
        images.append(run(part))
    return images[0][:rows] if len(images) == 1 else np.concatenate(images)[:rows]
