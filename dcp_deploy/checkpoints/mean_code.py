"""The mean style code of a generator whose file lacks it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..generators import Generator

LATENTS = 10_000
SEED = 0
_BATCH = 250


def fill_mean_code(generator: Generator, name: str) -> str:
    """Estimate ``w_avg``, which the file lacks under ``name``, and return the note that says so."""
    generator.mapping.w_avg.copy_(mean_code(generator))
    return f"no {name}: the mean code is that of {LATENTS:,} mapped latents of seed {SEED}"


def mean_code(generator: Generator) -> Tensor:
    """Return the mean of 10,000 un-truncated codes, [w_dim], from latents of a fixed seed and all classes in turn.

    Training keeps this mean as a moving average, ``w_avg``; truncation pulls codes towards it.
    """
    config = generator.config
    random = torch.Generator().manual_seed(SEED)
    total = torch.zeros(config.w_dim, dtype=torch.float64)
    with torch.no_grad():
        for start in range(0, LATENTS, _BATCH):
            z = torch.randn(_BATCH, config.z_dim, generator=random)
            c = None
            if config.c_dim:
                c = torch.nn.functional.one_hot(torch.arange(start, start + _BATCH) % config.c_dim, config.c_dim)
                c = c.to(torch.float32)
            total += generator.mapping.w(z, c).double().sum(dim=0)
    return (total / LATENTS).float()
