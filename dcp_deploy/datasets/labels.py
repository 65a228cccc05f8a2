"""Labels of images from ``dataset.json``, as NVIDIA's data set tools write it beside the images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptFileError

MAX_CLASSES = 2**31  # larger numbers are errors, and do not fit numpy's index on every machine
_MAX_FLOAT = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Labels:
    """One label per image: classes int64 [N], or vectors float32 [N, c_dim]."""

    values: NDArray[Any]

    @cached_property
    def c_dim(self) -> int:
        """Length of a label: that of the vectors, or the highest class plus one."""
        return int(self.values.shape[1]) if self.values.ndim == 2 else int(self.values.max()) + 1

    def fit(self, c_dim: int) -> bool:
        """Whether a generator with ``c_dim`` classes takes these labels. The last classes may be missing."""
        return self.c_dim == c_dim or (self.values.ndim == 1 and self.c_dim < c_dim)

    def vectors(self, indices: NDArray[np.integer[Any]], c_dim: int) -> NDArray[np.float32]:
        """Return the labels of several images, float32 [N, c_dim]; a class becomes a one-hot vector."""
        chosen = self.values[indices]
        return np.array(chosen if chosen.ndim == 2 else chosen[:, None] == np.arange(c_dim), np.float32)

    def vector(self, index: int) -> NDArray[np.float32]:
        """Return the label of image ``index``, float32 [c_dim]; a class becomes a one-hot vector."""
        return self.vectors(np.array([index]), self.c_dim).reshape(-1)


def read_labels(text: bytes, names: Sequence[str], *, source: str) -> Labels | None:
    """Read the labels of the images ``names`` from ``dataset.json``; None if its "labels" are null.

    The document is ``{"labels": [["00000/img00000000.png", 6], ...]}`` with a class or a list of numbers per image.
    Other names are ignored, as by NVIDIA's loader. Raises CorruptFileError, which names ``source``, for any other
    content and for an image without a label.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise CorruptFileError(f"{source} is not JSON: {error}") from error
    pairs = document.get("labels") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(pairs, list | None):
        raise CorruptFileError(f'{source} is not {{"labels": [[name, label], ...]}}')
    if pairs is None:
        return None
    by_name = _by_name(pairs, source)
    missing = [name for name in names if name not in by_name]
    if missing:
        raise CorruptFileError(
            f"{source} has no label for {len(missing)} of {len(names)} images, the first {missing[0]!r}",
            'Label every image, or write {"labels": null} if there are no labels.',
        )
    return Labels(_as_array([by_name[name] for name in names], source))


def _by_name(pairs: list[Any], source: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for position, pair in enumerate(pairs):
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
            raise CorruptFileError(f"{source}: entry {position} is not [name, label]")
        name = pair[0].replace("\\", "/")  # Windows paths
        if name in found and found[name] != pair[1]:
            raise CorruptFileError(f"{source} gives {name!r} two labels")
        found[name] = pair[1]
    return found


def _as_array(labels: list[Any], source: str) -> NDArray[Any]:
    """Return classes or vectors of one length. Raises CorruptFileError for a label unlike the first."""
    if isinstance(labels[0], list):
        length = len(labels[0])
        fitting = [
            isinstance(label, list) and len(label) == length > 0 and all(map(_is_number, label)) for label in labels
        ]
        wanted = f"a list of {length} finite numbers like the first"
    else:
        fitting = [type(label) is int and 0 <= label < MAX_CLASSES for label in labels]  # True is an int too
        wanted = "a class: a whole number >= 0"
    if not all(fitting):
        wrong = labels[fitting.index(False)]
        raise CorruptFileError(f"{source}: the label {str(wrong)[:60]} is not {wanted}")
    return np.array(labels, np.float32 if isinstance(labels[0], list) else np.int64)


def _is_number(value: Any) -> bool:
    """Whether float32 can hold the number. NaN cannot be compared, so it is excluded too."""
    return type(value) in (int, float) and abs(value) <= _MAX_FLOAT
