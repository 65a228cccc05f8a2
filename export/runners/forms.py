"""Any form of an exported ONNX file by the names of its inputs: the synthesis form (``ws``), noise as an input.

form = load_form("synthesis.onnx")
images = form({"ws": ws})
images = form({"ws": ws, **form.noise(seed=0, batch=len(ws))})   # of a file with noise as an input
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import InputError, UsageError
from .loading import sniff
from .onnx import image_of, onnx_backend
from .runner import NOISE_INPUT, Array, as_floats
from .sessions import open_session

if TYPE_CHECKING:  # who runs a file with onnxruntime need not wait for torch
    from ..fused.generator import ImageForm


@dataclass(frozen=True)
class FormRunner:
    """Draws images from arrays by name. ``inputs``: the shape of one row of each, for instance {"ws": (14, 512)}.

    ``image`` as in :class:`~.runners.Runner`; ``facts`` is what the file says about itself.
    """

    name: str
    backend: str
    inputs: Mapping[str, tuple[int, ...]]
    resolution: int
    image: ImageForm
    facts: Mapping[str, str] = field(repr=False)
    draw: Callable[[Mapping[str, Array]], Array] = field(repr=False)  # arrays already checked

    def __call__(self, arrays: Mapping[str, Array]) -> Array:
        """One image per row, of any number of rows. UsageError for a missing or unknown name, shape, type or value."""
        if set(arrays) != set(self.inputs):
            wrong = sorted(set(arrays) ^ set(self.inputs))
            raise UsageError(f"{self.name} takes {', '.join(self.inputs)}", f"missing or unknown: {', '.join(wrong)}")
        batch = len(next(iter(arrays.values())))
        feeds = {name: as_floats(name, arrays[name], (batch, *shape)) for name, shape in self.inputs.items()}
        if batch == 0:
            size = self.resolution
            shape = (0, size, size, 3) if self.image == "uint8" else (0, 3, size, size)
            return np.zeros(shape, np.uint8 if self.image == "uint8" else np.float32)
        return self.draw(feeds)

    def noise(self, *, seed: int, batch: int) -> dict[str, Array]:
        """A map of standard deviation 1 for every noise input, [batch, 1, H, W]; empty for a file without them."""
        random = np.random.default_rng(seed)
        shapes = {name: shape for name, shape in self.inputs.items() if name.startswith(NOISE_INPUT)}
        return {name: random.standard_normal((batch, *shape), dtype=np.float32) for name, shape in shapes.items()}


def load_form(path: str | os.PathLike[str], *, backend: str = "auto", threads: int | None = None) -> FormRunner:
    """Open an exported ONNX file. Errors as :func:`~.runners.load_runner`; UsageError for any other format."""
    path = Path(path)
    if sniff(path) != "onnx":
        raise UsageError(f"{path} is no ONNX file", "export one: dcp-deploy export --inputs ws")
    backend = onnx_backend(path, backend)
    session = open_session(path, backend, threads)
    inputs, problems = {}, []
    for name, (kind, shape) in session.inputs.items():
        known = name in ("z", "psi", "c", "ws") or name.startswith(NOISE_INPUT)
        if not known or kind != "tensor(float)" or not all(isinstance(n, int) for n in shape[1:]):
            problems.append(f"input {name!r} is {kind} {shape}")
        inputs[name] = tuple(shape[1:])
    size, image, problem = image_of(session.outputs)
    problems += [problem] if problem else []
    if problems:
        raise InputError(f"{path} is not a generator of ours: {'; '.join(problems)}", "make it with: dcp-deploy export")
    return FormRunner(path.name, backend, inputs, size, image, session.facts, session.draw)
