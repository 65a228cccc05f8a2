"""Random numbers that depend only on a seed and a name, so that no generator state needs to be saved."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from . import GeneratorConfig


def stream(seed: int, *names: str | int) -> torch.Generator:
    """Return a CPU generator for one purpose, such as ``stream(seed, "mixing", step)``.

    Streams of different names are independent, and each can be repeated without replaying those before it. So a
    resumed run draws the same numbers as one that never stopped.
    """
    name = "/".join(str(part) for part in (seed, *names))
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@contextmanager
def seeded(seed: int, *names: str | int) -> Iterator[None]:
    """Within the block, seed torch's global random state as :func:`stream` does; the CPU's is restored afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, *names).initial_seed())
        yield


def draw_latents(
    config: GeneratorConfig, count: int, generator: torch.Generator, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor | None]:
    """Return latents z ~ N(0, I) [count, z_dim] and, for a class-conditional generator, uniform one-hot classes.

    They are drawn on the CPU, then moved to ``device``.
    """
    z = torch.randn(count, config.z_dim, generator=generator)
    if not config.c_dim:
        return z.to(device), None
    classes = torch.randint(config.c_dim, (count,), generator=generator)
    return z.to(device), torch.nn.functional.one_hot(classes, config.c_dim).to(device, torch.float32)
