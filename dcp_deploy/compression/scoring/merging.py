"""The shards of one scoring run, added up to its scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...checkpoints.provenance import tensors_sha256
from ...efforts import CHANGES
from ...errors import CorruptFileError, UsageError
from ...generators import Generator
from ..layers import copy_to
from .accumulator import sum_of
from .change import scores_of_halves
from .channel_scores import ChannelScores, kept_in_common
from .moments import empty_moments, readers_of

_NUMBERS = ("seed", "psi", "alpha", "change_weight")
"""Settings from which moments become scores."""
_AGAIN = "Score that shard again."


def merge_scores(parts: Sequence[ChannelScores], generator: Generator | None = None) -> ChannelScores:
    """Return the sum of the scores of all shards: the scores of a single run, but for rounding.

    Stability is computed anew, between the even and the odd shards. The shards of "change" and "hybrid" hold moments,
    from which the scores follow only together: these need the ``generator`` that was scored. Raises UsageError unless
    ``parts`` are all shards of one run, each once, and CorruptFileError for shards that do not hold what they should.
    """
    _check_complete([part.settings.get("shard") for part in parts])
    ordered = sorted(parts, key=lambda part: int(part.settings["shard"][0]))
    _check_alike(ordered)
    settings = _common_settings(ordered[0])
    if settings.get("method") in CHANGES:
        return _merged_moments(ordered, generator, settings)
    halves = _halves([part.scores for part in ordered])
    if len(halves) > 1:
        settings["stability"] = kept_in_common(*halves)
    return ChannelScores(tuple(sum_of(halves)), settings)


def _merged_moments(
    parts: Sequence[ChannelScores], generator: Generator | None, settings: dict[str, Any]
) -> ChannelScores:
    for name in (*_NUMBERS, "hybrid_share") if settings["method"] == "hybrid" else _NUMBERS:
        if type(settings.get(name)) not in (int, float):
            raise CorruptFileError(f"the settings of these shards have no number {name!r}", "Score them again.")
    generator = _scored_generator(generator, settings)
    readers = readers_of(generator, settings["psi"], settings["seed"])
    shapes = [moment.shape for moment in empty_moments(readers)]
    for part in parts:
        if [moment.shape for moment in part.moments] != shapes:
            raise CorruptFileError(f"{_name(part)} does not hold the moments of this generator's layers", _AGAIN)
    try:
        return scores_of_halves(generator, readers, _halves([part.moments for part in parts]), settings)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # torch exports it without saying so
        raise CorruptFileError("these shards do not hold moments of features", "Score them again.") from error


def _check_complete(shards: Sequence[Any]) -> None:
    """Raise UsageError unless these (index, count) are all shards of one run, each once."""
    if not shards or None in shards:
        raise UsageError(
            f"{len(shards)} scores, and they are not shards", "Give the scores of one whole run, or all shards of one."
        )
    if not all(isinstance(shard, list) and len(shard) == 2 and all(type(n) is int for n in shard) for shard in shards):
        raise CorruptFileError(f"these are not numbers of shards: {shards}", _AGAIN)
    count = shards[0][1]
    for index, of in shards:
        if of != count:
            raise UsageError(f"shard {index}/{of} is not of a run of {count}", "Give the shards of one run.")
    given = [index for index, _ in shards]
    for index in given:
        if given.count(index) > 1:
            raise UsageError(f"shard {index}/{count} is given {given.count(index)} times", "Give each of them once.")
    missing = [f"{index}/{count}" for index in range(count) if index not in given]
    if missing:
        raise UsageError(f"shards are missing: {', '.join(missing)}", "Give all of one run.")


def _check_alike(parts: Sequence[ChannelScores]) -> None:
    """Raise UsageError for the first setting in which a shard differs from the first one."""
    first = _common_settings(parts[0])
    for part in parts[1:]:
        own = _common_settings(part)
        for name in sorted(first.keys() | own.keys()):
            if first.get(name) != own.get(name):
                raise UsageError(
                    f"{_name(part)} was scored with {name} {own.get(name)}, {_name(parts[0])} with {first.get(name)}",
                    "Give the shards of one run.",
                )
        if part.widths != parts[0].widths:
            raise UsageError(f"{_name(part)} and {_name(parts[0])} are of other layers", "Give the shards of one run.")


def _name(part: ChannelScores) -> str:
    return "shard {}/{}".format(*part.settings["shard"])


def _halves(parts: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """Return the sums over the even and over the odd ``parts``: one sum if there is one part."""
    return [sum_of(half) for half in (parts[::2], parts[1::2]) if half]


def _scored_generator(generator: Generator | None, settings: dict[str, Any]) -> Generator:
    if generator is None:
        raise UsageError(
            f"shards of {settings['method']!r} are merged with the generator that was scored, and none was given",
            "Give it as merge_scores(parts, generator).",
        )
    if tensors_sha256(generator) != settings.get("network"):
        raise UsageError("these shards are of another generator", "Give the generator that was scored.")
    return copy_to(generator, next(generator.parameters()).device).eval().requires_grad_(False)  # as it was scored


def _common_settings(part: ChannelScores) -> dict[str, Any]:
    return {name: value for name, value in part.settings.items() if name not in ("shard", "stability")}
