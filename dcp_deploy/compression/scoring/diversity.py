"""Which channels carry diversity: the importance score of DCP-GAN (Chung et al., CVPR 2024).

A latent is moved along directions in which the teacher's latents vary. A channel matters if the gradient of the image
difference at its weights varies strongly between directions: such a channel distinguishes them.

This follows the paper. The perturbed image is a constant (no gradient runs through it), and both images use the same
stored noise maps, so their difference comes from the direction alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...distributed.team import ALONE, Team
from ...errors import UsageError
from ...generators import Generator
from ...generators.latents import draw_latents, stream
from ..masks import Mask
from .accumulator import ScoreAccumulator, sum_of
from .channel_scores import STABLE, ChannelScores, finite_scores, kept_in_common
from .directions import principal_directions
from .gradients import content_profiles, gradient_profiles, released_profiles, scored_weights

SAMPLED = ("diversity", "gradient", "content")
"""The methods of this module: scores that add up over batches of latents."""
_FIRST_CHECK = 200  # latents after which "auto" first compares the halves


def move_settings(directions: int | None, alpha: float | None, released: bool) -> dict[str, Any]:
    """Return the checked settings of the moves that gradients are taken for."""
    directions, alpha = 10 if directions is None else directions, 5.0 if alpha is None else alpha
    if directions < 2:
        raise UsageError(f"a variance needs at least 2 directions, got {directions}", "Use the method's default, 10.")
    if not (math.isfinite(alpha) and alpha > 0):
        raise UsageError(f"alpha is the length of the step and must be positive, got {alpha}", "Use the default, 5.")
    return {"directions": directions, "alpha": alpha, "released": released}


def sampled_scores(
    generator: Generator,
    settings: dict[str, Any],
    *,
    latents: int,
    mask: Mask | None,
    state: str | os.PathLike[str] | None,
    progress: Callable[[int, int], None] | None,
    team: Team = ALONE,
) -> ChannelScores:
    """Return the scores of ``settings["method"]``, one of :data:`SAMPLED`; see :func:`~.methods.score`.

    ``latents`` are the most that are used, if ``settings["latents"]`` is "auto". The processes of ``team`` take the
    batches in turns; the first of them returns the scores.
    """
    sums = _accumulate(generator, settings, latents, mask, state, progress, team)
    if team.rank:
        return ChannelScores((), settings)
    if "shard" not in settings:
        settings = settings | {"latents": sums.latents}
    if sums.done > 1:
        settings = settings | {"stability": kept_in_common(*sums.halves)}
    return finite_scores(sum_of(sums.halves), settings)


def _accumulate(
    generator: Generator,
    settings: dict[str, Any],
    most: int,
    mask: Mask | None,
    state: str | os.PathLike[str] | None,
    progress: Callable[[int, int], None] | None,
    team: Team,
) -> ScoreAccumulator:
    """Sum the scores of the batches, from where the file ``state`` ends."""
    sums = ScoreAccumulator(generator.widths, generator, settings, state, team)
    weights = scored_weights(generator)
    for weight in weights:  # the others need no gradients
        weight.requires_grad_(True)
    along = principal_directions(generator, settings["seed"]) if mask is None else None
    checks = {_FIRST_CHECK << i for i in range(10)} if settings["latents"] == "auto" else set()
    first, step = settings.get("shard", (0, 1))
    batches = list(enumerate(batch_sizes(most, settings["batch"])))[first::step]
    total = sum(size for _, size in batches)
    while True:
        # A check always falls on the same batch, so a resumed run stops where an unbroken one does.
        last = batches[max(sums.done - team.size, 0) : sums.done]
        before = sums.latents - sum(size for _, size in last)
        if any(before < check <= sums.latents for check in checks) and _stable(sums, team):
            break
        turn = batches[sums.done : sums.done + team.size]
        if not turn:
            break
        layers = None
        if team.rank < len(turn):
            profiles = _batch_profiles(generator, weights, along, mask, *turn[team.rank], settings)
            layers = [_channel_score(profile, settings["method"]).cpu() for profile in profiles]
        sums.add(layers, [size for _, size in turn])
        if progress:
            progress(sums.latents, total)
    sums.collect()
    sums.discard()
    return sums


def _stable(sums: ScoreAccumulator, team: Team) -> bool:
    """Return whether both halves of the sample keep the same channels often enough, as the first process sees it."""
    sums.collect()
    shares = kept_in_common(*sums.halves) if team.rank == 0 else [0.0]
    return team.any(sum(shares) / len(shares) >= STABLE)


def _channel_score(profile: Tensor, method: str) -> Tensor:
    """Reduce [N, C] to [C]: to N times the variance over directions for "diversity", else to the sum."""
    if method != "diversity":
        return profile.sum(dim=0)
    return (profile - profile.mean(dim=0)).square().sum(dim=0)


def _batch_profiles(
    generator: Generator,
    weights: list[Tensor],
    along: tuple[Tensor, Tensor] | None,
    mask: Mask | None,
    index: int,
    size: int,
    settings: dict[str, Any],
) -> list[Tensor]:
    """Return the gradient profiles of one mini-batch; its random draws depend on the seed and its index alone."""
    device = weights[0].device
    source = stream(settings["seed"], "score", index)
    z, c = draw_latents(generator.config, size, source, device)
    with torch.no_grad():
        ws = generator.mapping(z, c, psi=settings["psi"])
    if mask is not None:
        return content_profiles(generator, weights, ws, mask, source)
    assert along is not None
    components, shares = along
    chosen = torch.multinomial(shares, settings["directions"], replacement=True, generator=source)
    if settings["released"]:
        return released_profiles(generator, weights, ws, settings["alpha"] * components[chosen].to(device), source)
    # A few directions hold most of the variance, so some are drawn more than once: one gradient serves them all.
    distinct, places = torch.unique(chosen, return_inverse=True)
    profiles = gradient_profiles(generator, weights, ws, settings["alpha"] * components[distinct].to(device))
    return [profile[places.to(device)] for profile in profiles]


def batch_sizes(latents: int, batch: int) -> list[int]:
    """Split ``latents`` into groups of ``batch``; the last also takes the remainder, as in the published code."""
    if latents < batch:
        return [latents]
    return [batch] * (latents // batch - 1) + [batch + latents % batch]
