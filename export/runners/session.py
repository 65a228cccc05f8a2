"""An ONNX file ready to run, whatever runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

Values = tuple[str, list[Any]]


@dataclass(frozen=True)
class Session:
    """A file ready to run. Type ("tensor(float)") and shape of inputs and outputs by name; an open dimension is no int.

    ``facts``: what the file says about itself. ``draw``: arrays by the inputs' names to the output ``image``; may be
    called from many threads at once.
    """

    inputs: Mapping[str, Values]
    outputs: Mapping[str, Values]
    facts: Mapping[str, str]
    draw: Callable[[Mapping[str, npt.NDArray[Any]]], npt.NDArray[Any]]
