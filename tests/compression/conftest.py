"""Small generators in which no tensor is at its initial zero, so that each affects the images, and runs of distill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from dcp_deploy.compression import ChannelScores, DistillConfig, DistillResult, distill, plan, prune, score
from dcp_deploy.generators import (
    Discriminator,
    DiscriminatorConfig,
    Generator,
    GeneratorConfig,
    StyleGAN3Layout,
)

# Every loss, with both lazy regularisers, within a few steps; except the perceptual loss, which needs a network.
EVERYTHING = DistillConfig(
    steps=6,
    batch=4,
    perceptual=0,
    optimizer="muon",
    rare=0.5,
    log_every=2,
    checkpoint_every=2,
    gan_start=1 / 6,
    lr_end=0.5,
)


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
    """Return a student with 60 % of the channels."""
    return prune(teacher, plan(teacher, score(teacher, method="random"), ratio=0.4, align=1), refine="none")


def assert_same_weights(a: Generator, b: Generator) -> None:
    """Compare bit for bit."""
    other = b.state_dict()
    different = [name for name, tensor in a.state_dict().items() if not torch.equal(tensor, other[name])]
    assert not different


def assert_same_scores(a: ChannelScores, b: ChannelScores) -> None:
    """Compare bit for bit."""
    assert all(torch.equal(x, y) for x, y in zip(a.scores, b.scores, strict=True))


def files_in(folder: Path) -> list[Path]:
    """Return the sorted paths in a folder, hidden ones included."""
    return sorted(folder.iterdir())


# ---- distillations ----


def distill_until(step: int, *arguments: Any, **options: Any) -> None:
    """Run :func:`distill`, and abort it after ``step`` steps."""

    def interrupt(done: int, total: int, values: dict[str, float]) -> None:
        if done == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(*arguments, on_step=interrupt, **options)


def gradients(folder: Path) -> dict[str, Tensor]:
    """Return every network's last gradients, and the running path length, from the only checkpoint in ``folder``.

    Adam's first moment is the gradient itself, because its beta is 0.
    """
    (checkpoint,) = files_in(folder)
    named = load_file(checkpoint)
    return {name: value for name, value in named.items() if name.endswith("exp_avg") or name == "path_mean"}


def gradient_of(network: str, folder: Path) -> Tensor:
    """Return the last gradient of the "student", the "discriminator" or the "feature" discriminator as one vector."""
    found = gradients(folder).items()
    return torch.cat([value.flatten() for name, value in found if name.startswith(f"{network}_optimizer.")])


def assert_same_to_rounding(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Compare gradients that were summed in another order."""
    assert ours.keys() == theirs.keys() and any(name.startswith("discriminator") for name in ours)
    for name, value in ours.items():
        # float32 sums of some thousands of terms in another order, and the cancellation in gradients of gradients.
        distance = (value - theirs[name]).norm() / theirs[name].norm().clamp(min=1e-8)
        assert distance < 2e-5, f"{name}: {distance}"


def assert_same_states(ours: Path, theirs: Path) -> None:
    """Compare two checkpoints bit for bit; safetensors writes its metadata in any order."""
    with safe_open(ours, framework="pt") as a, safe_open(theirs, framework="pt") as b:
        assert a.metadata() == b.metadata() and a.keys() == b.keys()
    one, other = load_file(ours), load_file(theirs)
    assert not [name for name, value in one.items() if not torch.equal(value, other[name])]


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[DistillResult, Path]:
    """The result of ``EVERYTHING`` on ``small_teacher`` and its pruned student, and the folder of its checkpoint.

    Tests copy the folder before they change it.
    """
    teacher, folder = make_small_teacher(), tmp_path_factory.mktemp("finished")
    return distill(pruned(teacher), teacher, config=EVERYTHING, checkpoint_dir=folder), folder


@pytest.fixture(params=["t", "r"])
def stylegan3(request: pytest.FixtureRequest) -> Generator:
    """A small StyleGAN3-t or -r: see :func:`make_stylegan3`."""
    return make_stylegan3(request.param)


@pytest.fixture(params=["stylegan2", "stylegan2-rectangular", "stylegan3-t", "stylegan3-r"])
def any_generator(request: pytest.FixtureRequest) -> Generator:
    """A small generator of each kind."""
    if request.param.startswith("stylegan3"):
        return make_stylegan3(request.param[-1])
    return make_generator(base=(4, 2) if request.param.endswith("rectangular") else (4, 4))


@pytest.fixture
def new_generator() -> Callable[..., Generator]:
    """``new_generator(seed, **config)``: see :func:`make_generator`."""
    return make_generator


@pytest.fixture
def teacher() -> Generator:
    """A small teacher of uneven widths."""
    return make_generator()


def make_small_teacher() -> Generator:
    """An 8 px generator."""
    return make_generator(resolution=8, widths=(10, 9, 8, 7))


@pytest.fixture
def small_teacher() -> Generator:
    """An 8 px generator, for tests that train."""
    return make_small_teacher()


def discriminator_of(teacher: Generator, seed: int, **changes: Any) -> Discriminator:
    """Return a discriminator that fits the teacher, with random weights of that seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Discriminator(replace(DiscriminatorConfig.mirror(teacher.config), **changes))
