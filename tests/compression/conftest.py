"""Small generators with nothing left at its initial zero, so that every tensor shows in the images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dcp_deploy.generators import Generator, GeneratorConfig


def make_generator(seed: int = 0, **changes: Any) -> Generator:
    """A 16 px generator with random biases, noise strengths and mean code."""
    settings = {"resolution": 16, "widths": (12, 10, 11, 9, 8, 7), "z_dim": 8, "w_dim": 8, "mapping_layers": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = Generator(GeneratorConfig(**{**settings, **changes})).eval()
        with torch.no_grad():
            for name, parameter in generator.synthesis.named_parameters():
                if name.endswith("bias"):
                    parameter.add_(0.2 * torch.randn_like(parameter))
                elif name.endswith("noise_strength"):
                    parameter.fill_(0.1)
            generator.mapping.w_avg.normal_(std=0.3)
    return generator


@pytest.fixture
def new_generator() -> Callable[..., Generator]:
    """``new_generator(seed, **config)``: see :func:`make_generator`."""
    return make_generator


@pytest.fixture
def teacher() -> Generator:
    """A small teacher of uneven widths."""
    return make_generator()
