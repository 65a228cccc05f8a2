"""Scores by every method, checked and computed in one place."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import torch

from ...checkpoints.provenance import tensors_sha256
from ...distributed.joining import helpers, join_team, on, portable
from ...distributed.team import ALONE, Team
from ...efforts import CHANGES, EFFORT, EFFORTS, HYBRID_SHARE, SCORE
from ...errors import UsageError
from ...extensions.functions import OwnFunction, check_name, find_function
from ...extensions.signatures import ScoreFunction
from ...generators import Generator, count_macs
from ..identity import identity_of
from ..layers import copy_to
from ..masks import Mask
from .baselines import (
    BaselineMethod,
    activation_scores,
    random_scores,
    scored_steps,
    style_scores,
    weight_in_scores,
    weight_out_scores,
)
from .change import change_scores, change_settings, check_hybrid_share
from .channel_scores import ChannelScores, finite_scores
from .diversity import SAMPLED, move_settings, sampled_scores
from .own import own_scores

ScoreMethod = Literal["diversity", "gradient", "content", "change", "hybrid", BaselineMethod]

MOST_LATENTS = 5000
"""Most latents that ``latents="auto"`` uses: the published number."""


def score(
    generator: Generator,
    *,
    method: ScoreMethod | str | ScoreFunction = SCORE,
    latents: int | Literal["auto"] | None = None,
    directions: int | None = None,
    alpha: float | None = None,
    batch: int = 5,
    psi: float = 1.0,
    released: bool = False,
    change_weight: float | None = None,
    hybrid_share: float = HYBRID_SHARE,
    shard: tuple[int, int] | None = None,
    mask: Mask | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    state: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ChannelScores:
    """Score every channel of ``generator``, which is left untouched.

    "diversity" is the published method (DCP-GAN, CVPR 2024). For each mini-batch of ``batch`` latents, ``directions``
    (10) principal components of the latent space are drawn, each with probability equal to its share of the variance.
    For each, the loss ``sum |G(w + alpha v) - G(w)|`` over the whole batch is derived by the weights of every scored
    layer (``alpha`` 5). The mean absolute gradient of each input channel is taken. The score is its variance over the
    directions times their count, summed over the batches. ``batch`` is part of the definition, since the absolute value
    follows the sum over the batch. The defaults are the published settings, except ``latents``: 5000 were published,
    and DCP-GAN's README says that 1000 give about the same order. By default it is what ``build`` takes for this size,
    at most 120.

    "change", the default, and "hybrid" are its successor (:mod:`.change`). ``latents`` (384 at most by default) are
    split evenly over ``directions``, the leading principal components: by default as many as hold 99 % of the variance,
    with at least 4 latents each. ``alpha`` (3) is then the length of a move in standard deviations. ``change_weight``
    from 0 to 1 is the weight of changes beside values, 1 for "change" and 0.5 for "hybrid" by default. "hybrid" takes a
    ``hybrid_share`` of the kept channels from that order, the others by "weight-out".

    ``latents`` "auto" doubles from 200 until both halves of the sample keep 90 % of the same channels at a ratio of
    70 %, at most to 5000. That agreement is in ``settings["stability"]`` of every diversity, gradient or content score
    of at least two batches.

    ``released`` reproduces the published code, which differs from its paper: gradients run through both images, and
    each has fresh random noise.

    ``shard`` (i, n) computes every n-th batch only, from batch i on: for n processes or machines, whose files
    :func:`~.merging.merge_scores` combines. For "change" and "hybrid" a batch is a direction. The processes of a
    launch (see :func:`~dcp_deploy.run_launched`) share all batches and add their sums by themselves.

    The other methods serve as comparison. "gradient" is the mean of that gradient instead of its variance. "content"
    is CAGAN's (Liu et al., CVPR 2021): the gradient of a loss by noise on the part that ``mask`` finds (published with
    400 latents and batch 10). "weight-out" is the norm of a channel's outgoing weights, which needs no images; it and
    the rest are in :mod:`.baselines`. ``psi`` truncates the latents. Class-conditional generators are scored over
    uniformly drawn classes. ``progress`` is called with (latents done, latents in all).

    A method of your own is a :class:`ScoreFunction`: given as it is, as "module:function", or by the name of an entry
    point in the group ``dcp_deploy.scores`` (docs/extending.md). It gets ``latents`` and ``seed``.

    ``state`` is a file for the partial sums, written about every half minute. A killed run continues from it to the
    same scores; other settings or weights start over. It is removed once the scores are complete.

    The result depends on the settings and the weights alone, never on torch's global random state. Raises UsageError
    for settings that cannot work, InputError when the generator produces NaN or infinity.
    """
    own = _own(method)
    method = str(method) if own is None else own.name
    _check_method(method, latents, shard, released, mask)
    check_hybrid_share(hybrid_share)
    settings: dict[str, Any] = {"method": method, "seed": seed, "network": tensors_sha256(generator)}
    if method == "random":
        return ChannelScores(tuple(random_scores(generator, seed)), settings)
    if method in ("weight-in", "weight-out"):
        weight_scores = weight_in_scores if method == "weight-in" else weight_out_scores
        return ChannelScores(tuple(weight_scores(generator)), settings)
    if latents is None:
        latents = EFFORTS[EFFORT].for_teacher(count_macs(generator)).latents_for(method)
    most = MOST_LATENTS if latents == "auto" else latents
    _check_sample(most, batch, psi)
    device = torch.device(device) if device is not None else next(generator.parameters()).device
    generator = copy_to(generator, device).eval().requires_grad_(False)
    if own is not None:
        settings |= {"latents": latents, "function": own.identity}
        return ChannelScores(tuple(own_scores(own, generator, most, seed, progress)), settings)
    settings |= {"latents": latents, "batch": batch, "psi": psi}
    if method in ("style", "activation"):
        del settings["batch"]
        steps, widths = scored_steps(generator, most, psi, seed, progress), generator.widths
        layers = style_scores(widths, steps, most) if method == "style" else activation_scores(widths, steps)
        return finite_scores(layers, settings)
    if shard is not None:
        _check_shard(shard, latents)
        settings["shard"] = list(shard)
    if method in CHANGES:
        settings |= change_settings(method, alpha, change_weight, hybrid_share)
    else:
        settings |= {"mask": identity_of(mask)} if mask is not None else move_settings(directions, alpha, released)
    compute = partial(_compute, settings=settings, latents=most, directions=directions, mask=mask, state=state)
    if helpers() == 1:
        return compute(generator, progress=progress)
    with join_team(1, device, partial(_compute_along, compute, portable(generator))) as (team, own_device):
        return compute(on(generator, own_device), progress=progress, team=team)


def _compute(
    generator: Generator,
    *,
    settings: dict[str, Any],
    latents: int,
    directions: int | None,
    mask: Mask | None,
    state: str | os.PathLike[str] | None,
    progress: Callable[[int, int], None] | None = None,
    team: Team = ALONE,
) -> ChannelScores:
    """Return the scores of a method that adds up sums, in the first process of ``team``."""
    shared: dict[str, Any] = {"latents": latents, "state": state, "progress": progress, "team": team}
    if settings["method"] in CHANGES:
        return change_scores(generator, settings, directions=directions, **shared)
    return sampled_scores(generator, settings, mask=mask, **shared)


def _compute_along(
    compute: Callable[..., ChannelScores], generator: Generator, device: torch.device, team: Team
) -> None:
    """Add this process's share of the sums."""
    compute(on(generator, device), team=team)


def _own(method: str | ScoreFunction) -> OwnFunction | None:
    """Return the user's function, or None for a method of this package. Raises UsageError if it is neither."""
    if isinstance(method, str):
        check_name("score", method, get_args(ScoreMethod))
        if method in get_args(ScoreMethod):
            return None
    return find_function("score", method)


def _check_method(
    method: str,
    latents: int | Literal["auto"] | None,
    shard: tuple[int, int] | None,
    released: bool,
    mask: Mask | None,
) -> None:
    if (method == "content") != (mask is not None):
        raise UsageError(
            f"score method {method!r} with{'out' if mask is None else ''} a mask",
            "Give a mask for content scores, and for no others: dcp-deploy score --score content --mask FILE",
        )
    if released and method not in SAMPLED:
        raise UsageError(
            f"released does not apply to the score {method!r}", "Use --score diversity, or omit --released."
        )
    if shard is not None and method not in (*SAMPLED, *CHANGES):
        raise UsageError(
            f"shard does not apply to the score {method!r}", "Use --score diversity or change, or omit --shard."
        )
    if latents == "auto" and (method in ("style", "activation", *CHANGES) or method not in get_args(ScoreMethod)):
        raise UsageError(
            f"the score {method!r} does not choose its latents", "Give a number of latents, or use --score diversity."
        )


def _check_sample(latents: int, batch: int, psi: float) -> None:
    if latents < 1 or batch < 1:
        raise UsageError(f"nothing to score with {latents} latents and batch {batch}", "Give at least 1 of each.")
    if not (math.isfinite(psi) and psi > 0):
        raise UsageError(f"psi must be positive, got {psi}", "Give a larger one: psi 0 makes all latents equal.")


def _check_shard(shard: tuple[int, int], latents: int | Literal["auto"]) -> None:
    first, count = shard
    if not 0 <= first < count:
        raise UsageError(f"shard {first} of {count} does not exist", "Count shards from 0: 0/4, 1/4, 2/4, 3/4.")
    if latents == "auto":
        raise UsageError("a shard cannot see whether all of them agree", "Give a number of latents.")
    if helpers() > 1:
        raise UsageError(
            f"shard {first}/{count}, and a launcher has started {helpers()} processes",
            "Leave out --shard: the processes share the work and add up their sums.",
        )
