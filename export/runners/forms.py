"""Any form of an exported ONNX file, by the names of its inputs: files that take ``ws``, or noise as an input.

form = load_form("synthesis.onnx")
images = form({"ws": ws})
images = form({"ws": ws, **form.noise(seed=0, batch=len(ws))})   # for a file with noise as an input
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import InputError, UsageError
from ..kinds import kind_of, onnx_needed
from .runner import NOISE_INPUT, Array, as_floats, no_images
from .sessions import open_session

if TYPE_CHECKING:  # torch is not needed to run an ONNX file
    from ..fused.generator import ImageForm


@dataclass(frozen=True)
class FormRunner:
    """Generates images from arrays by name. ``inputs``: the shape of one row of each, such as {"ws": (14, 512)}.

    ``image`` and ``image_size`` as in :class:`~.runner.Runner`; ``facts`` is the file's metadata.
    """

    name: str
    backend: str
    inputs: Mapping[str, tuple[int, ...]]
    image_size: tuple[int, int]
    image: ImageForm
    facts: Mapping[str, str] = field(repr=False)
    draw: Callable[[Mapping[str, Array]], Array] = field(repr=False)  # for arrays that are already checked

    def __call__(self, arrays: Mapping[str, Array]) -> Array:
        """Generate one image per row; any number of rows. UsageError for a wrong name, shape, type or value."""
        if set(arrays) != set(self.inputs):
            wrong = sorted(set(arrays) ^ set(self.inputs))
            raise UsageError(
                f"{self.name} takes {', '.join(self.inputs)}",
                f"Give exactly its inputs. Missing or unknown: {', '.join(wrong)}.",
            )
        batch = len(next(iter(arrays.values())))
        feeds = {name: as_floats(name, arrays[name], (batch, *shape)) for name, shape in self.inputs.items()}
        return self.draw(feeds) if batch else no_images(self.image, self.image_size)

    def noise(self, *, seed: int, batch: int) -> dict[str, Array]:
        """Return random maps of standard deviation 1, [batch, 1, H, W], for every noise input of the file."""
        random = np.random.default_rng(seed)
        shapes = {name: shape for name, shape in self.inputs.items() if name.startswith(NOISE_INPUT)}
        return {name: random.standard_normal((batch, *shape), dtype=np.float32) for name, shape in shapes.items()}


def load_form(path: str | os.PathLike[str], *, backend: str = "auto", threads: int | None = None) -> FormRunner:
    """Open an exported ONNX file. Errors as in :func:`~.loading.load_runner`; InputError for any other format."""
    path = Path(path)
    if kind_of(path) != "onnx":
        wrong = InputError(f"{path} is not an ONNX file", "Export one: dcp-deploy export --inputs ws")
        raise onnx_needed(path) or wrong
    session = open_session(path, backend, threads)
    inputs, problems = {}, []
    for name, (kind, shape) in session.inputs.items():
        known = name in ("z", "psi", "c", "ws") or name.startswith(NOISE_INPUT)
        if not known or kind != "tensor(float)" or not all(isinstance(n, int) for n in shape[1:]):
            problems.append(f"input {name!r} is {kind} {shape}")
        inputs[name] = tuple(shape[1:])
    size, image = session.image(problems)
    return FormRunner(path.name, session.backend, inputs, size, image, session.facts, session.draw)
