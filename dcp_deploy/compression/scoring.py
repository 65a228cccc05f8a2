"""Which channels carry diversity: the importance score of DCP-GAN (Chung et al., CVPR 2024).

A latent is pushed along directions in which the teacher's latents vary. A channel matters when the difference of the
two images pulls at its weights very differently from one direction to the next: such a channel tells them apart.

This is the clean reading of the method. The perturbed image is a constant (no gradient runs through it), and both
images see the same stored noise maps, so their difference comes from the direction alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..errors import InputError, UsageError
from ..generators import Generator
from .channel_scores import ChannelScores
from .randomness import draw_latents, stream

ScoreMethod = Literal["diversity", "random"]

PCA_LATENTS = 10_000


def score(
    generator: Generator,
    *,
    method: ScoreMethod = "diversity",
    latents: int = 5000,
    directions: int = 10,
    alpha: float = 5.0,
    batch: int = 5,
    psi: float = 1.0,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ChannelScores:
    """Score every channel of ``generator``, which is left untouched.

    For each mini-batch of ``batch`` latents, ``directions`` principal components of the latent space are drawn with
    probability equal to their share of the variance. For each, the loss ``sum |G(w + alpha v) - G(w)|`` over the
    whole batch is derived by the weights of every scored layer, and the mean absolute gradient of each input channel
    taken. The score is the variance of that number over the directions (times their count), summed over the batches.
    ``batch`` is part of the definition, since the absolute value follows the sum over the batch; the published
    settings are the defaults, and 1000 latents are said to give about the same order.

    ``method`` "random" gives uniform random scores, the baseline to beat; it uses only ``seed``.
    ``psi`` truncates the latents. Conditional generators are scored over uniformly drawn classes.
    ``progress`` is called with (latents done, latents in all).

    The result depends on the settings and the weights alone, never on torch's global random state. Raises UsageError
    for settings that cannot work, InputError when the generator draws NaN or infinity.
    """
    settings: dict[str, Any] = {"method": method, "seed": seed}
    if method == "random":
        source = stream(seed, "random scores")
        layers = [torch.rand(width, generator=source, dtype=torch.float64) for width in generator.widths]
        return ChannelScores(tuple(layers), settings)
    if method != "diversity":
        raise UsageError(f"unknown score method {method!r}", f"choose one of: {', '.join(get_args(ScoreMethod))}")
    settings |= {"latents": latents, "directions": directions, "alpha": alpha, "batch": batch, "psi": psi}
    _check_settings(latents, directions, alpha, batch, psi)

    # Work on a frozen copy in which only the scored weights ask for gradients.
    device = torch.device(device) if device is not None else next(generator.parameters()).device
    generator = copy.deepcopy(generator).to(device).eval().requires_grad_(False)
    weights = scored_weights(generator)
    for weight in weights:
        weight.requires_grad_(True)
    components, shares = principal_directions(generator, seed)

    totals = [torch.zeros(width, dtype=torch.float64, device=device) for width in generator.widths]
    done = 0
    for index, size in enumerate(batch_sizes(latents, batch)):
        source = stream(seed, "score", index)
        z, c = draw_latents(generator.config, size, source)
        chosen = torch.multinomial(shares, directions, replacement=True, generator=source)
        with torch.no_grad():
            ws = generator.mapping(z.to(device), None if c is None else c.to(device), psi=psi)
        profiles = gradient_profiles(generator, weights, ws, alpha * components[chosen].to(device))
        for total, profile in zip(totals, profiles, strict=True):
            total += (profile - profile.mean(dim=0)).square().sum(dim=0)
        done += size
        if progress:
            progress(done, latents)
    if not all(total.isfinite().all() for total in totals):
        raise InputError("the generator draws NaN or infinite images, so it cannot be scored", "check the checkpoint")
    return ChannelScores(tuple(total.cpu() for total in totals), settings)


def scored_weights(generator: Generator) -> list[Tensor]:
    """The weights whose *input* channels are scored.

    StyleGAN2: every 3x3 convolution, then the last toRGB only. StyleGAN3: every layer, toRGB included.
    """
    return [layer.weight for _, layer in generator.synthesis.scored()]


def gradient_profiles(generator: Generator, weights: list[Tensor], ws: Tensor, offsets: Tensor) -> list[Tensor]:
    """Mean absolute gradient per input channel, float64 [N, C_in] for each weight, of the loss to each offset.

    ``ws`` is [B, num_ws, w_dim], ``offsets`` [N, w_dim]. The un-perturbed images do not depend on the offset, so
    they are drawn once and their graph serves all N backward passes; perturbed images need no graph at all. The loss
    ``sum |perturbed - image|`` enters as its derivative by the image, ``sign(image - perturbed)``.
    """
    profiles: list[list[Tensor]] = [[] for _ in weights]
    image = generator.synthesis(ws, noise="const")
    for offset in offsets:
        with torch.no_grad():
            pull = torch.sign(image - generator.synthesis(ws + offset, noise="const"))
        gradients = torch.autograd.grad(image, weights, pull, retain_graph=True)
        for profile, gradient in zip(profiles, gradients, strict=True):
            profile.append(gradient.abs().mean(dim=(0, 2, 3), dtype=torch.float64))
    return [torch.stack(profile) for profile in profiles]


def principal_directions(generator: Generator, seed: int) -> tuple[Tensor, Tensor]:
    """Principal components of 10,000 mapped latents: unit rows [w_dim, w_dim] by falling variance, and their shares.

    The shares [w_dim] of the total variance sum to one. A component's sign is arbitrary; here its entry of largest
    magnitude is positive, so that the result does not hang on the eigen-solver.
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
    return (components * largest.sign()).to(torch.float32), variances / variances.sum()


def batch_sizes(latents: int, batch: int) -> list[int]:
    """``latents`` in groups of ``batch``; the last group takes the remainder on top, as in the published code."""
    if latents < batch:
        return [latents]
    return [batch] * (latents // batch - 1) + [batch + latents % batch]


def _check_settings(latents: int, directions: int, alpha: float, batch: int, psi: float) -> None:
    if latents < 1 or batch < 1:
        raise UsageError(f"scoring needs at least one latent per batch, got {latents} latents and batch {batch}")
    if directions < 2:
        raise UsageError(f"a variance needs at least 2 directions, got {directions}", "the method's default is 10")
    if not (math.isfinite(alpha) and alpha > 0):
        raise UsageError(f"alpha is the length of the step and must be positive, got {alpha}")
    if not (math.isfinite(psi) and psi > 0):
        raise UsageError(f"psi must be positive, got {psi}", "psi 0 makes all latents equal")
