"""The result of scoring, in memory and as a file, and how far two scores agree on the channels to keep."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ...checkpoints.native import is_native
from ...errors import CorruptFileError, InputError
from ...files import write_bytes

STABLE = 0.9  # mean share of kept channels in common that ends ``latents="auto"``
RATIO = 0.7  # pruning ratio at which kept channels are compared, whatever is pruned later
_FORMAT = "dcp-deploy scores 1"
_EXAMPLE = "scores.safetensors"


@dataclass(frozen=True, eq=False)
class ChannelScores:
    """One float64 vector per entry of ``GeneratorConfig.widths``, in its order; higher means keep.

    Only the order *within* a layer has a meaning, except for "change" and "hybrid", whose scores are shares of what a
    layer's readers respond with. ``settings`` are those of :func:`score`, ready for JSON; ``settings["network"]`` is
    the sha256 over the tensors of the generator that was scored.
    """

    scores: tuple[Tensor, ...]
    settings: dict[str, Any]
    moments: tuple[Tensor, ...] = ()
    """Of a shard of "change" or "hybrid": the sums from which :func:`merge_scores` computes the scores of all."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels per layer of the generator that was scored."""
        return tuple(len(layer) for layer in self.scores)

    @property
    def sha256(self) -> str:
        """Hex sha256 over the scores of all layers, as little-endian float64. Two files of equal scores can differ."""
        digest = hashlib.sha256()
        for layer in self.scores:
            digest.update(f"{len(layer)}\n".encode() + layer.cpu().numpy().astype("<f8").tobytes())
        return digest.hexdigest()


def finite_scores(layers: Sequence[Tensor], settings: dict[str, Any]) -> ChannelScores:
    """Return the scores of all layers. Raises InputError for NaN and infinity, which come from broken images."""
    if not all(layer.isfinite().all() for layer in layers):
        raise InputError("the generator produces NaN or infinite images: no scores", "Check the checkpoint.")
    return ChannelScores(tuple(layers), settings)


def save_scores(scores: ChannelScores, path: str | os.PathLike[str]) -> Path:
    """Write the scores as safetensors, the settings as JSON in its metadata. Atomic."""
    tensors = {f"layer{i:02d}": layer.contiguous() for i, layer in enumerate(scores.scores)}
    tensors |= {f"moment{i:03d}": moment.contiguous() for i, moment in enumerate(scores.moments)}
    metadata = {"format": _FORMAT, "settings": json.dumps(scores.settings, sort_keys=True, allow_nan=False)}
    write_bytes(path, save(tensors, metadata))
    return Path(path)


def load_scores(path: str | os.PathLike[str]) -> ChannelScores:
    """Read what :func:`save_scores` wrote.

    Raises InputError for a missing file and for one that holds something else, CorruptFileError for one that is not
    complete and finite.
    """
    if not Path(path).is_file():
        raise InputError(
            f"score file {path} not found", f"Score the teacher: dcp-deploy score TEACHER --out {_EXAMPLE}"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        settings = json.loads(metadata.get("settings", "null"))
    except (SafetensorError, OSError, ValueError) as error:
        raise CorruptFileError(f"{path} is not a readable score file: {error}", "Compute the scores again.") from error
    sums = sorted(name for name in tensors if name.startswith("moment"))
    names = [f"layer{i:02d}" for i in range(len(tensors) - len(sums))]
    if (
        metadata.get("format") != _FORMAT
        or not isinstance(settings, dict)
        or sorted(tensors) != names + sums
        or not names
    ):
        what = "a generator" if is_native(path) else "a safetensors file"
        raise InputError(
            f"{path} is {what}, not scores", f"Score the teacher: dcp-deploy score TEACHER --out {_EXAMPLE}"
        )
    scores = ChannelScores(tuple(tensors[name] for name in names), settings, tuple(tensors[name] for name in sums))
    check_scores(scores, str(path))
    return scores


def check_scores(scores: ChannelScores, source: str = "the scores") -> None:
    """Raise CorruptFileError unless every layer is a finite float64 vector, and every moment such a square matrix."""
    checked = [("layer", 1, layers) for layers in enumerate(scores.scores)]
    checked += [("moment", 2, moments) for moments in enumerate(scores.moments)]
    for kind, dimensions, (index, tensor) in checked:
        fits = tensor.ndim == dimensions and len(set(tensor.shape)) == 1 and tensor.dtype == torch.float64
        if not (fits and tensor.isfinite().all()):
            shape = "vector" if dimensions == 1 else "square matrix"
            raise CorruptFileError(
                f"{kind} {index} of {source} is not a finite float64 {shape} ({tensor.dtype}, {list(tensor.shape)})",
                "Compute the scores again.",
            )


# ---- which channels are kept ----


def kept_width(channels: int, ratio: float, align: int) -> int:
    """Return how many of ``channels`` remain when a share ``ratio`` is removed, rounded to groups of ``align``."""
    # The tolerance makes 0.29 of 100 remove 29: in binary fractions the product is 28.999999999999996.
    kept = channels - math.floor(ratio * channels + 1e-9)
    if kept == channels or channels < align:
        return channels
    nearest = align * ((2 * kept + align) // (2 * align))
    return min(max(nearest, align), channels // align * align)


def kept_in_common(first: Sequence[Tensor], second: Sequence[Tensor]) -> list[float]:
    """Return for each layer the share of the channels kept by one score that the other keeps too.

    Unrelated scores give about ``1 - RATIO``, equal orders 1. Each half has half of the latents, so the order of the
    whole sample is more certain than their agreement shows.
    """

    def kept(scores: Tensor) -> set[int]:
        return set(torch.argsort(scores, stable=True)[-kept_width(len(scores), RATIO, 1) :].tolist())

    return [len(kept(a) & kept(b)) / len(kept(a)) for a, b in zip(first, second, strict=True)]
