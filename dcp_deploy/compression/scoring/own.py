"""Channel scores by a function that a user wrote: called the same way everywhere, and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...errors import choose
from ...extensions.functions import OwnFunction
from ...generators import Generator


def own_scores(
    own: OwnFunction,
    generator: Generator,
    latents: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> list[Tensor]:
    """Return the function's scores, one float64 vector [C] for each scored layer, in their order.

    ``generator`` is a copy that the function may change. Raises UsageError, which names the function, if it fails or
    returns something else.
    """
    widths = {name: layer.weight.shape[1] for name, layer in generator.synthesis.scored()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = own(generator, latents=latents, seed=seed, progress=progress or _ignore)
    if not isinstance(found, Mapping):
        raise own.refused(f"returned a {type(found).__name__}, not a mapping from layers to scores")
    for name in found:
        if name not in widths:
            raise own.refused(f"returned scores of {name!r}, which is not a scored layer. {choose(name, widths)}")
    missing = [name for name in widths if name not in found]
    if missing:
        raise own.refused(f"returned no scores of {', '.join(missing)}")
    return [_checked(own, name, found[name], width) for name, width in widths.items()]


def _checked(own: OwnFunction, name: str, scores: Any, width: int) -> Tensor:
    if not isinstance(scores, Tensor) or scores.is_complex():
        raise own.refused(f"returned a {type(scores).__name__} for {name}, not a tensor of real numbers")
    if scores.shape != (width,):
        raise own.refused(f"returned the shape {list(scores.shape)} for {name}, whose {width} channels need [{width}]")
    vector: Tensor = scores.detach().to("cpu", torch.float64).clone()
    if not vector.isfinite().all():
        raise own.refused(f"returned NaN or infinity for {name}")
    return vector


def _ignore(done: int, total: int) -> None:
    """Take no note of progress."""
