"""StyleGAN2's synthesis against the reference implementation, and its own contracts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dcp_deploy.checkpoints import load_generator
from dcp_deploy.generators import Generator, GeneratorConfig

from .formulas import images_by_the_formulas

# fp32 with sums in another order: the reference itself moves by 3e-6 between torch versions (images of magnitude 4).
IMAGE_TOLERANCE = 2e-5
ACTIVATION_TOLERANCE = 3e-5


def close(actual: Tensor, expected: Tensor, tolerance: float = IMAGE_TOLERANCE) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


def human_generator() -> Generator:
    """Build a network in the layout of StyleGAN-Human (github.com/stylegan-human/StyleGAN-Human) from its file."""
    generator = load_generator(Path(__file__).parent / "cases" / "human_32x16.pkl")
    return generator.eval().requires_grad_(False)


@torch.no_grad()
@pytest.mark.parametrize("name", ["sg2ada_32", "sg2ada_32_cond_clamp"])
def test_without_noise_equals_the_reference(
    name: str, golden: Callable[[str], Any], golden_generator: Callable[[str], Generator]
) -> None:
    data = golden(name)
    images = golden_generator(name).synthesis(torch.from_numpy(data["ws"]), noise="none")
    close(images, torch.from_numpy(data["img_none"]))


@torch.no_grad()
def test_block_outputs_equal_the_reference(
    golden: Callable[[str], Any], golden_generator: Callable[[str], Generator]
) -> None:
    data = golden("sg2ada_32")
    _, features = golden_generator("sg2ada_32").synthesis.features(torch.from_numpy(data["ws"][:1]))
    assert list(features) == ["b4", "b8", "b16", "b32"]
    for name, feature in features.items():
        close(feature, torch.from_numpy(data[f"act/{name}.x"]), ACTIVATION_TOLERANCE)


@torch.no_grad()
def test_random_noise_follows_the_given_generator(tiny_generator: Generator) -> None:
    ws = tiny_generator.mapping(torch.randn(2, 16, generator=torch.Generator().manual_seed(1)))
    first, again, other = (
        tiny_generator.synthesis(ws, noise="random", generator=torch.Generator().manual_seed(seed))
        for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_unknown_noise_mode_is_refused(tiny_generator: Generator) -> None:
    with pytest.raises(ValueError, match="'loud'"):
        tiny_generator(torch.zeros(1, 16), noise="loud")  # type: ignore[arg-type]


def test_ws_of_the_wrong_shape_are_refused(tiny_generator: Generator) -> None:
    with pytest.raises(ValueError, match=r"\[2, 7, 16\]"):
        tiny_generator.synthesis(torch.zeros(2, 7, 16))


@torch.no_grad()
@pytest.mark.parametrize("size", ["32x32", "32x16"])
def test_networks_of_any_shape_follow_the_formulas(size: str, golden_generator: Callable[[str], Generator]) -> None:
    """The square one has golden images too, and so vouches for the formulas."""
    generator = golden_generator("sg2ada_32") if size == "32x32" else human_generator()
    ws = generator.mapping(torch.randn(2, generator.config.z_dim, generator=torch.Generator().manual_seed(1)))
    close(generator.synthesis(ws).double(), images_by_the_formulas(generator, ws), 3e-5)


@torch.no_grad()
@pytest.mark.parametrize("base", [(4, 2), (3, 5)])
@pytest.mark.parametrize("mode", ["const", "random", "none"])
def test_rectangular_images_have_the_size_of_their_config(base: tuple[int, int], mode: Any) -> None:
    generator = Generator(GeneratorConfig(16, (3, 5, 7, 2, 9, 4), z_dim=6, w_dim=5, mapping_layers=1, base=base))
    images, features = generator.synthesis.features(generator.mapping(torch.randn(2, 6)), noise=mode)
    assert images.shape == (2, 3, 4 * base[0], 4 * base[1])
    assert [tuple(x.shape[2:]) for x in features.values()] == [generator.config.size_at(r) for r in (4, 8, 16)]


@torch.no_grad()
@pytest.mark.parametrize("resolution", [4, 8, 16])
def test_small_resolutions_and_uneven_widths_work(resolution: int) -> None:
    widths = (3, 5, 7, 2, 9, 4)[: len(GeneratorConfig.stylegan2(resolution).widths)]
    generator = Generator(GeneratorConfig(resolution, widths, z_dim=6, w_dim=5, mapping_layers=1))
    assert generator(torch.randn(2, 6)).shape == (2, 3, resolution, resolution)
    assert generator(torch.randn(0, 6)).shape == (0, 3, resolution, resolution)
