"""Which channels carry diversity: the importance score of DCP-GAN (Chung et al., CVPR 2024).

A latent is moved along directions in which the teacher's latents vary. A channel matters if the gradient of the image
difference at its weights varies strongly between directions: such a channel distinguishes them.

This follows the paper. The perturbed image is a constant (no gradient runs through it), and both images use the same
stored noise maps, so their difference comes from the direction alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ...checkpoints.provenance import tensors_sha256
from ...efforts import EFFORT, EFFORTS, SCORE
from ...errors import InputError, UsageError, choose
from ...generators import Generator, count_macs
from ...generators.latents import draw_latents, stream
from ..identity import identity_of, run_key
from ..layers import copy_to
from ..masks import Mask
from .accumulator import ScoreAccumulator
from .baselines import (
    BaselineMethod,
    activation_scores,
    random_scores,
    scored_steps,
    style_scores,
    weight_in_scores,
    weight_out_scores,
)
from .channel_scores import STABLE, ChannelScores, kept_in_common
from .gradients import content_profiles, gradient_profiles, released_profiles, scored_weights

ScoreMethod = Literal["diversity", "gradient", "content", BaselineMethod]

PCA_LATENTS = 10_000
MOST_LATENTS = 5000
_SAMPLED = ("diversity", "gradient", "content")  # scores that add up over batches of latents
"""Most latents that ``latents="auto"`` uses: the published number."""
_FIRST_CHECK = 200  # latents after which "auto" first compares the halves


def score(
    generator: Generator,
    *,
    method: ScoreMethod = SCORE,
    latents: int | Literal["auto"] | None = None,
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

    "weight-out", the default, is the norm of a channel's outgoing weights (:mod:`.baselines`).

    "diversity" is the published method (DCP-GAN, CVPR 2024). For each mini-batch of ``batch`` latents, ``directions``
    principal components of the latent space are drawn, each with probability equal to its share of the variance. For
    each, the loss ``sum |G(w + alpha v) - G(w)|`` over the whole batch is derived by the weights of every scored layer.
    The mean absolute gradient of each input channel is taken. The score is its variance over the directions times their
    count, summed over the batches. ``batch`` is part of the definition, since the absolute value follows the sum over
    the batch. The defaults are the published settings, except ``latents``: 5000 were published, and DCP-GAN's README
    says that 1000 give about the same order. By default it is what ``build`` takes for this size, at most 120.

    ``latents`` "auto" doubles from 200 until both halves of the sample keep 90 % of the same channels at a ratio of
    70 %, at most to 5000. That agreement is in ``settings["stability"]`` of every diversity, gradient or content score
    of at least two batches.

    ``released`` reproduces the published code, which differs from its paper: gradients run through both images, and
    each has fresh random noise.

    ``shard`` (i, n) computes every n-th batch only, from batch i on: for n processes or machines, whose files
    :func:`merge_scores` combines.

    The other methods serve as comparison. "gradient" is the mean of that gradient instead of its variance. "content"
    is CAGAN's (Liu et al., CVPR 2021): the gradient of a loss by noise on the part that ``mask`` finds (published with
    400 latents and batch 10). The rest is in :mod:`.baselines`. ``psi`` truncates the latents. Class-conditional
    generators are scored over uniformly drawn classes. ``progress`` is called with (latents done, latents in all).

    ``state`` is a file for the partial sums, written about every half minute. A killed run continues from it to the
    same scores; other settings or weights start over. It is removed once the scores are complete.

    The result depends on the settings and the weights alone, never on torch's global random state. Raises UsageError
    for settings that cannot work, InputError when the generator produces NaN or infinity.
    """
    if method not in get_args(ScoreMethod):
        raise UsageError(f"unknown score method {method!r}", choose(method, get_args(ScoreMethod)))
    if (method == "content") != (mask is not None):
        raise UsageError(
            f"score method {method!r} with{'out' if mask is None else ''} a mask",
            "Give a mask for content scores, and for no others: dcp-deploy score --score content --mask FILE",
        )
    if method not in _SAMPLED and (shard is not None or released):
        given = "shard" if shard is not None else "released"
        raise UsageError(
            f"{given} does not apply to the score {method!r}", f"Use --score diversity, or omit --{given}."
        )
    settings: dict[str, Any] = {"method": method, "seed": seed, "network": tensors_sha256(generator)}
    if method == "random":
        return ChannelScores(tuple(random_scores(generator, seed)), settings)
    if method in ("weight-in", "weight-out"):
        weight_scores = weight_in_scores if method == "weight-in" else weight_out_scores
        return ChannelScores(tuple(weight_scores(generator)), settings)
    if latents is None:
        latents = EFFORTS[EFFORT].for_teacher(count_macs(generator)).score_latents
    most = MOST_LATENTS if latents == "auto" else latents
    _check_settings(most, directions, alpha, batch, psi)
    device = torch.device(device) if device is not None else next(generator.parameters()).device
    generator = copy_to(generator, device).eval().requires_grad_(False)
    if method in ("style", "activation"):
        if latents == "auto":
            raise UsageError(f"method {method!r} does not measure stability", "Give a number of latents.")
        steps, widths = scored_steps(generator, most, psi, seed, progress), generator.widths
        layers = style_scores(widths, steps, most) if method == "style" else activation_scores(widths, steps)
        return _finite(layers, settings | {"latents": latents, "psi": psi})
    settings |= {"latents": latents, "batch": batch, "psi": psi}
    if mask is not None:
        settings["mask"] = identity_of(mask)
    else:
        settings |= {"directions": directions, "alpha": alpha, "released": released}
    if shard is not None:
        _check_shard(shard, latents)
        settings["shard"] = list(shard)
    sums = _accumulate(generator, settings, most, mask, state, progress)
    if sums.done > 1:
        settings["stability"] = kept_in_common(*sums.halves)
    if shard is None:
        settings["latents"] = sums.latents
    return _finite([even + odd for even, odd in zip(*sums.halves, strict=True)], settings)


def _check_settings(latents: int, directions: int, alpha: float, batch: int, psi: float) -> None:
    if latents < 1 or batch < 1:
        raise UsageError(f"nothing to score with {latents} latents and batch {batch}", "Give at least 1 of each.")
    if directions < 2:
        raise UsageError(f"a variance needs at least 2 directions, got {directions}", "Use the method's default, 10.")
    if not (math.isfinite(alpha) and alpha > 0):
        raise UsageError(f"alpha is the length of the step and must be positive, got {alpha}", "Use the default, 5.")
    if not (math.isfinite(psi) and psi > 0):
        raise UsageError(f"psi must be positive, got {psi}", "Give a larger one: psi 0 makes all latents equal.")


def _check_shard(shard: tuple[int, int], latents: int | Literal["auto"]) -> None:
    first, count = shard
    if not 0 <= first < count:
        raise UsageError(f"shard {first} of {count} does not exist", "Count shards from 0: 0/4, 1/4, 2/4, 3/4.")
    if latents == "auto":
        raise UsageError("a shard cannot see whether all of them agree", "Give a number of latents.")


def _finite(layers: list[Tensor], settings: dict[str, Any]) -> ChannelScores:
    if not all(layer.isfinite().all() for layer in layers):
        raise InputError("the generator produces NaN or infinite images: no scores", "Check the checkpoint.")
    return ChannelScores(tuple(layers), settings)


def _accumulate(
    generator: Generator,
    settings: dict[str, Any],
    most: int,
    mask: Mask | None,
    state: str | os.PathLike[str] | None,
    progress: Callable[[int, int], None] | None,
) -> ScoreAccumulator:
    """Sum the scores of the batches, from where the file ``state`` ends."""
    key = run_key({"settings": settings, "config": generator.config.to_dict()}, {"generator": generator})
    sums = ScoreAccumulator(generator.widths, state, key)
    weights = scored_weights(generator)
    for weight in weights:  # the others need no gradients
        weight.requires_grad_(True)
    along = principal_directions(generator, settings["seed"]) if mask is None else None
    checks = {_FIRST_CHECK << i for i in range(10)} if settings["latents"] == "auto" else set()
    first, step = settings.get("shard", (0, 1))
    batches = list(enumerate(batch_sizes(most, settings["batch"])))[first::step]
    total = sum(size for _, size in batches)
    for count, (index, size) in enumerate(batches):
        if count >= sums.done:
            profiles = _batch_profiles(generator, weights, along, mask, index, size, settings)
            sums.add([_channel_score(profile, settings["method"]).cpu() for profile in profiles], size)
            sums.save_sometimes()
            if progress:
                progress(sums.latents, total)
        # A check always falls on the same batch, so a resumed run stops where an unbroken one does.
        if sums.done == count + 1 and any(sums.latents - size < check <= sums.latents for check in checks):
            shares = kept_in_common(*sums.halves)
            if sum(shares) / len(shares) >= STABLE:
                break
    sums.discard()
    return sums


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


def principal_directions(generator: Generator, seed: int) -> tuple[Tensor, Tensor]:
    """Return :func:`principal_components` and their shares [w_dim] of the total variance, which sum to one."""
    components, variances = principal_components(generator, seed)
    return components, variances / variances.sum()


def principal_components(generator: Generator, seed: int) -> tuple[Tensor, Tensor]:
    """Return the principal components of 10,000 mapped latents and their variances.

    Components are float32 unit rows [w_dim, w_dim] by falling variance, variances float64. A component's sign is
    arbitrary: its entry of largest magnitude is made positive, so that the result does not depend on the eigensolver.
    """
    device = next(generator.parameters()).device
    z, c = draw_latents(generator.config, PCA_LATENTS, stream(seed, "pca"), device)
    with torch.no_grad():
        w = generator.mapping.w(z, c).to("cpu", torch.float64)
    if not w.isfinite().all():
        raise InputError("the generator maps latents to NaN or infinity, not to codes", "Check the checkpoint.")
    variances, vectors = torch.linalg.eigh(torch.cov(w.T).reshape(w.shape[1], w.shape[1]))  # ascending
    variances, components = variances.flip(0).clamp(min=0), vectors.flip(1).T
    if variances.sum() <= 0:
        raise InputError("every latent maps to the same code: no direction", "Check the checkpoint.")
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    return (components * largest.sign()).to(torch.float32), variances


def batch_sizes(latents: int, batch: int) -> list[int]:
    """Split ``latents`` into groups of ``batch``; the last also takes the remainder, as in the published code."""
    if latents < batch:
        return [latents]
    return [batch] * (latents // batch - 1) + [batch + latents % batch]


def merge_scores(parts: Sequence[ChannelScores]) -> ChannelScores:
    """Return the sum of the scores of all shards: the scores of a single run, but for rounding.

    Stability is computed anew, between the even and the odd shards. Raises UsageError unless ``parts`` are all shards
    of one run, each once.
    """
    settings, shards = _common_settings(parts[0]), [part.settings.get("shard") for part in parts]
    if sorted(map(str, shards)) != sorted(str([i, len(parts)]) for i in range(len(parts))):
        raise UsageError(f"these are not the {len(parts)} shards of one run: {shards}", "Give each of its files once.")
    for part in parts:
        if _common_settings(part) != settings or part.widths != parts[0].widths:
            raise UsageError(
                f"these shards were scored with different settings: {settings} and {_common_settings(part)}",
                "Give the shards of one run.",
            )
    ordered = [part.scores for part in sorted(parts, key=lambda part: int(part.settings["shard"][0]))]
    halves = [_sum_of(half) for half in (ordered[::2], ordered[1::2]) if half]
    if len(halves) > 1:
        settings["stability"] = kept_in_common(*halves)
    return ChannelScores(_sum_of(halves), settings)


def _common_settings(part: ChannelScores) -> dict[str, Any]:
    return {name: value for name, value in part.settings.items() if name not in ("shard", "stability")}


def _sum_of(scores: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
    return tuple(torch.stack(layers).sum(dim=0) for layers in zip(*scores, strict=True))
