"""The directions in which a generator's latents vary: the principal components of W."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import InputError
from ...generators import Generator
from ...generators.latents import draw_latents, stream

PCA_LATENTS = 10_000


def principal_directions(generator: Generator, seed: int) -> tuple[Tensor, Tensor]:
    """Return :func:`principal_components` and their shares [w_dim] of the total variance, which sum to one."""
    components, variances = principal_components(generator, seed)
    return components, variances / variances.sum()


def principal_components(generator: Generator, seed: int) -> tuple[Tensor, Tensor]:
    """Return the principal components of 10,000 mapped latents and their variances; see :func:`code_distribution`."""
    return code_distribution(generator, seed)[1:]


def code_distribution(generator: Generator, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean code [w_dim] of 10,000 mapped latents, their principal components, and the variances along them.

    Components are float32 unit rows [w_dim, w_dim] by falling variance, mean and variances float64, all on the CPU. A
    component's sign is arbitrary: its entry of largest magnitude is made positive, so that the result does not depend
    on the eigensolver. Raises InputError for codes that are not finite, or all the same.
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
    return w.mean(dim=0), (components * largest.sign()).to(torch.float32), variances
