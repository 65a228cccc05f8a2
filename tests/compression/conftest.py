"""Small generators with nothing left at its initial zero, so that every tensor shows in the images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from dcp_deploy.compression import DistillConfig, plan, prune, score
from dcp_deploy.generators import (
    Discriminator,
    DiscriminatorConfig,
    Generator,
    GeneratorConfig,
    StyleGAN3Layout,
)

# Every loss with both lazy regularisers inside a few steps, but for the perceptual one, which wants a network.
EVERYTHING = DistillConfig(steps=6, batch=4, perceptual=0, log_every=2, checkpoint_every=2, gan_start=1 / 6, lr_end=0.5)


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


def make_stylegan3(variant: Literal["t", "r"] = "t", c_dim: int = 0) -> Generator:
    """A 16 px StyleGAN3 of six layers and uneven widths, with random biases, input gains, mean code and motion."""
    layout = StyleGAN3Layout(9, conv_kernel=3 if variant == "t" else 1, radial=variant == "r", num_layers=5, margin=4)
    config = GeneratorConfig(
        16, (8, 7, 9, 6, 7, 5), z_dim=8, w_dim=8, c_dim=c_dim, mapping_layers=2, conv_clamp=256.0,
        kind="stylegan3", layout=layout,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = Generator(config).eval()
        with torch.no_grad():
            for name, tensor in generator.synthesis.state_dict().items():
                if name.endswith("bias"):
                    tensor.add_(0.2 * torch.randn_like(tensor))
                elif name.endswith("magnitude_ema"):
                    tensor.fill_(1.3)
            generator.synthesis.get_parameter("input.affine.weight").normal_(std=0.3)
            generator.mapping.w_avg.normal_(std=0.3)
    return generator


def pruned(teacher: Generator) -> Generator:
    """A student of 60 % of the channels."""
    return prune(teacher, plan(teacher, score(teacher, method="random"), ratio=0.4))


def assert_same_weights(a: Generator, b: Generator) -> None:
    """To the last bit."""
    other = b.state_dict()
    different = [name for name, tensor in a.state_dict().items() if not torch.equal(tensor, other[name])]
    assert not different


def files_in(folder: Path) -> list[Path]:
    """Sorted, the hidden ones too."""
    return sorted(folder.iterdir())


@pytest.fixture(params=["t", "r"])
def stylegan3(request: pytest.FixtureRequest) -> Generator:
    """A small StyleGAN3-t or -r: see :func:`make_stylegan3`."""
    return make_stylegan3(request.param)


@pytest.fixture
def new_generator() -> Callable[..., Generator]:
    """``new_generator(seed, **config)``: see :func:`make_generator`."""
    return make_generator


@pytest.fixture
def teacher() -> Generator:
    """A small teacher of uneven widths."""
    return make_generator()


@pytest.fixture
def small_teacher() -> Generator:
    """Of 8 px, for tests that train."""
    return make_generator(resolution=8, widths=(10, 9, 8, 7))


def discriminator_of(teacher: Generator, seed: int, **changes: Any) -> Discriminator:
    """One that fits the teacher, with weights of that seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Discriminator(replace(DiscriminatorConfig.mirror(teacher.config), **changes))
