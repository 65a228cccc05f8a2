"""Which channels carry diversity: the importance score of DCP-GAN (Chung et al., CVPR 2024).

A latent is pushed along directions in which the teacher's latents vary. A channel matters when the difference of the
two images pulls at its weights very differently from one direction to the next: such a channel tells them apart.

This is the clean reading of the method. The perturbed image is a constant (no gradient runs through it), and both
images see the same stored noise maps, so their difference comes from the direction alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ...errors import InputError, UsageError
from ...generators import Generator
from ...generators.latents import draw_latents, stream
from ..identity import identity_of, run_key
from ..layers import copy_to
from ..masks import Mask
from .accumulator import ScoreAccumulator
from .baselines import (
    BaselineMethod,
    activation_scores,
    random_scores,
    style_scores,
    weight_in_scores,
    weight_out_scores,
)
from .channel_scores import STABLE, ChannelScores, kept_in_common
from .gradients import content_profiles, gradient_profiles, released_profiles, scored_weights

ScoreMethod = Literal["diversity", "gradient", "content", BaselineMethod]

PCA_LATENTS = 10_000
MOST_LATENTS = 5000
"""Where ``latents="auto"`` ends at the latest: the published number."""
_FIRST_LOOK = 200


def score(
    generator: Generator,
    *,
    method: ScoreMethod = "diversity",
    latents: int | Literal["auto"] = MOST_LATENTS,
    directions: int = 10,
    alpha: float = 5.0,
    batch: int = 5,
    psi: float = 1.0,
    released: bool = False,
    shard: tuple[int, int] | None = None,
    mask: Mask | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    state: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ChannelScores:
    """Score every channel of ``generator``, which is left untouched.

    For each mini-batch of ``batch`` latents, ``directions`` principal components of the latent space are drawn with
    probability equal to their share of the variance. For each, the loss ``sum |G(w + alpha v) - G(w)|`` over the
    whole batch is derived by the weights of every scored layer, and the mean absolute gradient of each input channel
    taken. The score is the variance of that number over the directions (times their count), summed over the batches.
    ``batch`` is part of the definition, since the absolute value follows the sum over the batch; the published
    settings are the defaults, and 1000 latents are said to give about the same order. ``latents`` "auto" doubles from
    200 until both halves of the sample keep 90 % of the same channels at 70 %, at most to 5000. That agreement is
    in ``settings["stability"]`` of every diversity or gradient score of at least two batches.

    ``released`` is the parity mode: gradients through both images, and fresh random noise in each, as the published
    code computes where its paper describes a fixed perturbed image.

    ``shard`` (i, n) does every n-th batch only, from batch i on: for n processes or machines, whose files
    :func:`merge_scores` puts together.

    Other methods, to compare with: "gradient" is the mean of that gradient instead of its variance; "content" is
    CAGAN's (Liu et al., CVPR 2021), the gradient that noise on what ``mask`` shows brings about (published with 400
    latents and batch 10); for the rest see :mod:`.rival_scores`. ``psi`` truncates the latents. Conditional generators
    are scored over uniformly drawn classes. ``progress`` is called with (latents done, latents in all).

    With ``state``, a file, the sums so far are written there about every half minute, and a run that was killed goes
    on from them, to the same scores; other settings or weights start over. The file goes when the scores are there.

    The result depends on the settings and the weights alone, never on torch's global random state. Raises UsageError
    for settings that cannot work, InputError when the generator draws NaN or infinity.
    """
    if method not in METHODS:
        raise UsageError(f"unknown score method {method!r}", f"choose one of: {', '.join(METHODS)}")
    if (method == "content") != (mask is not None):
        raise UsageError(
            f"score method {method!r} with{'out' if mask is None else ''} a mask",
            "content scores, and no others, need one: dcp-deploy score --method content --mask FILE",
        )
    settings: dict[str, Any] = {"method": method, "seed": seed}
    if method in ("random", "weight-in", "weight-out"):
        layers = random_scores(generator, seed) if method == "random" else _weight_scores(generator, method)
        return ChannelScores(tuple(layers), settings)
    most = MOST_LATENTS if latents == "auto" else latents
    _check_settings(most, directions, alpha, batch, psi)
    device = torch.device(device) if device is not None else next(generator.parameters()).device
    generator = copy_to(generator, device).eval().requires_grad_(False)
    if method in ("style", "activation"):
        draws = style_scores if method == "style" else activation_scores
        if latents == "auto":
            raise UsageError(f"method {method!r} has no stability to stop at", "give a number of latents")
        layers = draws(generator, most, psi, seed, progress)
        return _finished(layers, settings | {"latents": latents, "psi": psi})
    settings |= {"latents": latents, "batch": batch, "psi": psi}
    if mask is not None:
        settings["mask"] = identity_of(mask)
    else:
        settings |= {"directions": directions, "alpha": alpha, "released": released}
    if shard is not None:
        _check_shard(shard, latents)
        settings["shard"] = list(shard)
    sums = _sums(generator, settings, most, mask, state, progress)
    if sums.done > 1:
        settings["stability"] = kept_in_common(sums.halves[0], sums.halves[1])
    if shard is None:
        settings["latents"] = sums.latents
    return _finished([even + odd for even, odd in zip(*sums.halves, strict=True)], settings)


METHODS: tuple[str, ...] = ("diversity", "gradient", "content", *get_args(BaselineMethod))


def _weight_scores(generator: Generator, method: str) -> list[Tensor]:
    return weight_in_scores(generator) if method == "weight-in" else weight_out_scores(generator)


def _finished(layers: list[Tensor], settings: dict[str, Any]) -> ChannelScores:
    if not all(layer.isfinite().all() for layer in layers):
        raise InputError("the generator draws NaN or infinite images, so it cannot be scored", "check the checkpoint")
    return ChannelScores(tuple(layers), settings)


def _sums(
    generator: Generator,
    settings: dict[str, Any],
    most: int,
    mask: Mask | None,
    state: str | os.PathLike[str] | None,
    progress: Callable[[int, int], None] | None,
) -> ScoreAccumulator:
    """Go through the batches, from where ``state`` is."""
    key = run_key({"settings": settings, "config": generator.config.to_dict()}, {"generator": generator})
    sums = ScoreAccumulator.start(generator.widths, state, key)
    weights = scored_weights(generator)
    for weight in weights:  # only these ask for gradients
        weight.requires_grad_(True)
    along = principal_directions(generator, settings["seed"]) if mask is None else None
    looks = {_FIRST_LOOK << i for i in range(10)} if settings["latents"] == "auto" else set()
    first, step = settings.get("shard", (0, 1))
    batches = list(enumerate(batch_sizes(most, settings["batch"])))[first::step]
    total = sum(size for _, size in batches)
    for count, (index, size) in enumerate(batches):
        if count >= sums.done:
            profiles = _batch_profiles(generator, weights, along, mask, index, size, settings)
            sums.add([_spread(profile, settings["method"]).cpu() for profile in profiles], size)
            sums.save_sometimes()
            if progress:
                progress(sums.latents, total)
        # A look always falls on the same batch, so a resumed run stops where an unbroken one does.
        if sums.done == count + 1 and _passed(looks, sums.latents, size) and _stable(sums):
            break
    sums.discard()
    return sums


def _passed(looks: set[int], latents: int, size: int) -> bool:
    return any(latents - size < look <= latents for look in looks)


def _stable(sums: ScoreAccumulator) -> bool:
    shares = kept_in_common(sums.halves[0], sums.halves[1])
    return sum(shares) / len(shares) >= STABLE


def _spread(profile: Tensor, method: str) -> Tensor:
    """[N, C] to [C]: N times the variance over the directions; for the other methods the sum."""
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
    """The gradient profiles of one mini-batch, whose draws depend on the seed and its index alone."""
    device = weights[0].device
    source = stream(settings["seed"], "score", index)
    z, c = draw_latents(generator.config, size, source)
    with torch.no_grad():
        ws = generator.mapping(z.to(device), None if c is None else c.to(device), psi=settings["psi"])
    if mask is not None:
        return content_profiles(generator, weights, ws, mask, source)
    assert along is not None
    components, shares = along
    chosen = torch.multinomial(shares, settings["directions"], replacement=True, generator=source)
    if settings["released"]:
        return released_profiles(generator, weights, ws, settings["alpha"] * components[chosen].to(device), source)
    # A few directions hold most of the variance, so some are drawn more than once: of these, one gradient serves all.
    drawn, places = torch.unique(chosen, return_inverse=True)
    profiles = gradient_profiles(generator, weights, ws, settings["alpha"] * components[drawn].to(device))
    return [profile[places.to(device)] for profile in profiles]


def principal_directions(generator: Generator, seed: int) -> tuple[Tensor, Tensor]:
    """:func:`principal_components`, and their shares [w_dim] of the total variance, which sum to one."""
    components, variances = principal_components(generator, seed)
    return components, variances / variances.sum()


def principal_components(generator: Generator, seed: int) -> tuple[Tensor, Tensor]:
    """Of 10,000 mapped latents: unit rows [w_dim, w_dim] by falling variance, float32, and the variances, float64.

    A component's sign is arbitrary; here its entry of largest magnitude is positive, so that the result does not hang
    on the eigen-solver.
    """
    device = next(generator.parameters()).device
    z, c = draw_latents(generator.config, PCA_LATENTS, stream(seed, "pca"))
    with torch.no_grad():
        w = generator.mapping.w(z.to(device), None if c is None else c.to(device)).to("cpu", torch.float64)
    if not w.isfinite().all():
        raise InputError("the generator maps latents to NaN or infinity, not to codes", "check the checkpoint")
    variances, vectors = torch.linalg.eigh(torch.cov(w.T).reshape(w.shape[1], w.shape[1]))  # ascending
    variances, components = variances.flip(0).clamp(min=0), vectors.flip(1).T
    if variances.sum() <= 0:
        raise InputError("every latent maps to the same code, so there is no direction to score along")
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    return (components * largest.sign()).to(torch.float32), variances


def batch_sizes(latents: int, batch: int) -> list[int]:
    """``latents`` in groups of ``batch``; the last group takes the remainder on top, as in the published code."""
    if latents < batch:
        return [latents]
    return [batch] * (latents // batch - 1) + [batch + latents % batch]


def _check_shard(shard: tuple[int, int], latents: int | Literal["auto"]) -> None:
    first, count = shard
    if not 0 <= first < count:
        raise UsageError(f"there is no shard {first} of {count}", "shards count from 0: 0/4, 1/4, 2/4, 3/4")
    if latents == "auto":
        raise UsageError("a shard cannot see whether all of them agree", "give a number of latents")


def merge_scores(parts: Sequence[ChannelScores]) -> ChannelScores:
    """The scores of all batches from those of every shard: the sum, the same as of one run but for its rounding.

    Their stability is told anew, between the even and the odd shards. Raises UsageError unless these are all shards
    of one run, each once.
    """
    settings = {name: value for name, value in parts[0].settings.items() if name not in ("shard", "stability")}
    shards = [part.settings.get("shard") for part in parts]
    if sorted(map(str, shards)) != sorted(str([i, len(parts)]) for i in range(len(parts))):
        raise UsageError(f"these are no {len(parts)} shards of one run but {shards}", "give each of its files once")
    for part in parts:
        same = {name: value for name, value in part.settings.items() if name not in ("shard", "stability")}
        if same != settings or part.widths != parts[0].widths:
            raise UsageError(f"these shards were scored with different settings: {settings} and {same}")
    ordered = [part.scores for part in sorted(parts, key=lambda part: int(part.settings["shard"][0]))]
    halves = [[torch.stack(layers).sum(dim=0) for layers in zip(*half, strict=True)] for half in _even_odd(ordered)]
    if len(halves) > 1:
        settings["stability"] = kept_in_common(halves[0], halves[1])
    return ChannelScores(tuple(torch.stack(layers).sum(dim=0) for layers in zip(*halves, strict=True)), settings)


def _even_odd(ordered: list[tuple[Tensor, ...]]) -> list[list[tuple[Tensor, ...]]]:
    return [half for half in (ordered[::2], ordered[1::2]) if half]


def _check_settings(latents: int, directions: int, alpha: float, batch: int, psi: float) -> None:
    if latents < 1 or batch < 1:
        raise UsageError(f"scoring needs at least one latent per batch, got {latents} latents and batch {batch}")
    if directions < 2:
        raise UsageError(f"a variance needs at least 2 directions, got {directions}", "the method's default is 10")
    if not (math.isfinite(alpha) and alpha > 0):
        raise UsageError(f"alpha is the length of the step and must be positive, got {alpha}")
    if not (math.isfinite(psi) and psi > 0):
        raise UsageError(f"psi must be positive, got {psi}", "psi 0 makes all latents equal")
