"""Which channels are needed to rebuild how the images change: the successor of DCP-GAN's score.

DCP-GAN keeps channels whose gradients differ between directions of the latent space. Those are mostly the channels of
large activations, and many of them carry the same. This score keeps the idea that channels matter by the *change* of
the image that they carry, and asks another question: from which channels can that change be rebuilt?

* Latents are moved by +-3 standard deviations along each of the leading principal directions, which hold 99 % of the
  variance. What a layer reads changes; D is the second moment of these changes, in which every direction counts alike,
  however many pixels it moves. H is the covariance of the values themselves.
* Backward elimination (:mod:`.elimination`) drops the channel that the others can best do without, when they rebuild D,
  or D and H. A convolution and a toRGB that read the same channels are judged together, each by the share of its
  response that is lost.
* Layers come from the last to the first. An output counts by the share of all widths at which elimination keeps it.

The result is one order per layer, and every width cuts the same order. A channel's score is the share of what its
readers respond with that its drop costs. A layer's scores add up to one, and those of the kept channels to what can be
rebuilt; a layer whose channels never change anything has scores of zero. They have no unit, and no free scale of the
weights enters them: so layers can be compared, and a budget takes channels where the least is lost.

"hybrid" takes a share of the kept channels from that order, and of the others those of the largest outgoing weights.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...distributed.team import ALONE, Team
from ...errors import InputError, UsageError, as_share
from ...generators import Generator
from ...generators.latents import draw_latents, stream
from .accumulator import ScoreAccumulator, sum_of
from .baselines import weight_out_scores
from .channel_scores import ChannelScores, kept_in_common
from .directions import principal_components
from .elimination import Regression, costs_along, elimination_order, scores_along
from .moments import Reader, direction_moments, empty_moments, folded, readers_of

_CHANGE_WEIGHT = {"change": 1.0, "hybrid": 0.5}
SIGMAS = 3.0
SHARE = 0.99  # of the variance of W, held by the directions
LEAST = 4  # latents that a direction gets before there are more directions
RIDGE = 0.01  # of the mean contribution of a channel


def change_settings(
    method: str, alpha: float | None, change_weight: float | None, hybrid_share: float
) -> dict[str, Any]:
    """Return the settings of these methods alone. Raises UsageError for values that cannot work."""
    alpha = SIGMAS if alpha is None else alpha
    if not (math.isfinite(alpha) and alpha > 0):
        raise UsageError(
            f"alpha is the length of a move in standard deviations and must be positive, got {alpha}",
            "Use the default, 3.",
        )
    weight = _CHANGE_WEIGHT[method] if change_weight is None else change_weight
    if not 0 <= weight <= 1:
        raise UsageError(
            f"the change weight must be from 0 to 1, got {weight:g}", "Give 1 for changes alone, 0.5 for values too."
        )
    return {"alpha": alpha, "change_weight": weight} | ({"hybrid_share": hybrid_share} if method == "hybrid" else {})


def check_hybrid_share(share: float) -> None:
    """Raise UsageError unless it is a share."""
    if not 0 <= share <= 1:
        raise UsageError(f"the hybrid share must be from 0 to 1, got {share:g}", as_share(share))


def change_scores(
    generator: Generator,
    settings: dict[str, Any],
    *,
    latents: int,
    directions: int | None,
    state: str | os.PathLike[str] | None,
    progress: Callable[[int, int], None] | None,
    team: Team = ALONE,
) -> ChannelScores:
    """Return the scores of ``settings["method"]``, "change" or "hybrid"; see :func:`~.methods.score`.

    ``settings`` has batch, psi, alpha, seed, change_weight and perhaps hybrid_share and shard. The scores of a shard
    hold its moments, which :func:`~.merging.merge_scores` adds. The processes of ``team`` take the directions in turns;
    the first of them returns the scores.
    """
    seed, shard = settings["seed"], settings.get("shard")
    components, variances = principal_components(generator, seed)
    count = _direction_count(variances, latents, directions)
    each = latents // count
    settings = settings | {"directions": count, "latents": count * each}
    readers = readers_of(generator, settings["psi"], seed)
    sums = ScoreAccumulator([total.shape for total in empty_moments(readers)], generator, settings, state, team)
    first, step = shard or (0, 1)
    mine = range(first, count, step)
    while turn := mine[sums.done : sums.done + team.size]:
        moments = None
        if team.rank < len(turn):
            index = turn[team.rank]
            move = settings["alpha"] * variances[index].sqrt().to(torch.float32) * components[index]
            moments = _moments_of(generator, readers, move, index, each, settings)
        sums.add(moments, [each] * len(turn))
        if progress:
            progress(sums.latents, len(mine) * each)
    sums.collect()
    if team.rank:
        return ChannelScores((), settings)
    halves = sums.halves[: max(sums.done, 1)]  # a shard may have one direction, or none
    moments = sum_of(halves)
    if not all(total.isfinite().all() for total in moments):
        raise InputError(
            f"the generator produces NaN or infinite features at psi {settings['psi']:g}, or when its latents move by "
            f"{settings['alpha']:g} standard deviations: no scores",
            "Check the checkpoint; psi is usually at most 1, and alpha 3.",
        )
    scores = scores_of_halves(generator, readers, halves, settings)
    sums.discard()
    return replace(scores, moments=tuple(moments)) if shard else scores


def _direction_count(variances: Tensor, latents: int, wanted: int | None) -> int:
    """Return how many leading directions are moved along."""
    if wanted is not None:
        if not 1 <= wanted <= latents:
            raise UsageError(
                f"{wanted} directions for {latents} latents", "Give at least one direction, and no more than latents."
            )
        if wanted > len(variances):
            raise UsageError(
                f"{wanted} directions, and codes have {len(variances)} dimensions", "Give at most one for each."
            )
        return wanted
    enough = int((variances.cumsum(0) < SHARE * variances.sum()).sum()) + 1
    return min(enough, len(variances), max(latents // LEAST, 1))


def _moments_of(
    generator: Generator, readers: Sequence[Reader], move: Tensor, index: int, count: int, settings: dict[str, Any]
) -> list[Tensor]:
    """Return the moments of direction ``index``: every second of its ``count`` latents is moved backwards."""
    source = stream(settings["seed"], "change", index)
    z, c = draw_latents(generator.config, count, source, next(generator.parameters()).device)
    with torch.no_grad():
        ws = generator.mapping(z, c, psi=settings["psi"])
    signs = torch.ones(count, 1)
    signs[::2] = -1
    moves = (signs * move).to(ws.device)
    return direction_moments(generator, readers, ws, moves, batch=settings["batch"], source=source)


def scores_of_halves(
    generator: Generator, readers: Sequence[Reader], halves: Sequence[Sequence[Tensor]], settings: dict[str, Any]
) -> ChannelScores:
    """Return the scores of all moments together; of two halves also the stability, their agreement.

    Raises UsageError when no move changed anything, unless these are moments of a shard, which may be empty.
    """
    moments = sum_of(halves)
    if settings["change_weight"] > 0 and "shard" not in settings and not any(each.any() for each in moments[1::2]):
        raise UsageError(
            f"moves of {settings['alpha']:g} standard deviations change no features of this generator",
            "Give a larger alpha, such as 3. If that does not help, its images do not depend on the latent.",
        )
    scores = scores_of_moments(generator, readers, moments, settings)
    if len(halves) > 1:
        of_each = (scores_of_moments(generator, readers, half, settings) for half in halves)
        settings = settings | {"stability": kept_in_common(*of_each)}
    return ChannelScores(tuple(scores), settings)


@torch.no_grad()
def scores_of_moments(
    generator: Generator, readers: Sequence[Reader], moments: Sequence[Tensor], settings: dict[str, Any]
) -> list[Tensor]:
    """Return the scores float64 [C] of every layer from the sums of :func:`~.moments.direction_moments`."""
    strongest = [layer.argsort(descending=True, stable=True) for layer in weight_out_scores(generator)]
    scores: list[Tensor] = []
    kept = None  # share of all widths at which each channel of the layer above is kept
    for layer in reversed(range(len(generator.widths))):
        regressions = [
            regression(
                reader,
                values.to(reader.weights.device),
                change.to(reader.weights.device),
                settings["change_weight"],
                None if reader.place.outputs is None else kept,
            )
            for reader, values, change in zip(readers, moments[::2], moments[1::2], strict=True)
            if reader.place.inputs == layer
        ]
        order = elimination_order(regressions)
        if settings["method"] == "hybrid":
            order = mixed_order(order, strongest[layer], settings["hybrid_share"])
        energy = torch.stack([each.energy for each in regressions]).sum()
        scores.insert(0, scores_along(order, costs_along(regressions, order) / energy.clamp(min=1e-300)))
        kept = (order.argsort() + 1).to(torch.float64) / len(order)
    return scores


def regression(reader: Reader, values: Tensor, change: Tensor, change_weight: float, kept: Tensor | None) -> Regression:
    """Return what elimination works on, of energy 1: second moments of channels, in units of their contributions.

    A channel's contribution is its input times the length of the weights that read it. In these units neither the
    moments nor the ridge depend on how a scale is split between a style and the weights. ``kept`` [Co] weights the
    outputs. If ``change_weight`` is 1, changes alone count, if it is 0, values alone.
    """
    weights = reader.weights if kept is None else reader.weights * kept.sqrt()[:, None, None]
    lengths = weights.square().sum(dim=(0, 1)).sqrt()
    scale = torch.outer(lengths, lengths)
    count, mean = values[-1, -1].clamp(min=1e-300), values[-1, :-1]
    covariance = values[:-1, :-1] / count - torch.outer(mean / count, mean / count)
    moment = change_weight * _of_trace_one(change * scale) + (1 - change_weight) * _of_trace_one(covariance * scale)
    channels = len(lengths)
    # Inputs that never vary leave nothing to rebuild: the ridge then decides, by the weights alone.
    ridge = RIDGE * moment.trace() / channels if moment.trace() > 0 else 1.0
    moment = moment + ridge * torch.eye(channels, dtype=torch.float64, device=moment.device)
    found = Regression(folded(weights / torch.where(lengths > 0, lengths, torch.inf)), moment)
    return Regression(found.weights / found.energy.clamp(min=1e-300).sqrt(), moment)


def _of_trace_one(moment: Tensor) -> Tensor:
    return moment / moment.trace().clamp(min=1e-300)


def mixed_order(eliminated: Tensor, strongest: Tensor, share: float) -> Tensor:
    """Return an order of drops int64 [C] in which a share of the last n channels, for any n, outlived ``eliminated``.

    The rest come in the order of ``strongest``, the largest weights first, from channels that are not taken yet.
    """
    lists = [iter(eliminated.flip(0).tolist()), iter(strongest.tolist())]
    added, by_elimination = dict[int, None](), 0
    for n in range(1, len(eliminated) + 1):
        other = by_elimination >= math.floor(share * n + 0.5)
        added[next(channel for channel in lists[other] if channel not in added)] = None
        by_elimination += not other
    return torch.tensor(list(added), device=eliminated.device).flip(0)
