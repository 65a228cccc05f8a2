"""The fused generator of both kinds against the readable one and the golden images."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch

from dcp_deploy.errors import UsageError
from dcp_deploy.export.fused.generator import FusedGenerator, fused, to_uint8
from dcp_deploy.generators import Generator

from ..conftest import random_generator, random_stylegan3

NETWORKS = ["sg2ada_32", "sg2ada_32_cond_clamp", "sg3t_32", "sg3t_64_cond_clamp", "sg3r_64"]
TOLERANCE = 1e-5  # of the image's magnitude, if that is above 1: float32, two orders of summation


def inputs(generator: Generator, batch: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    config = generator.config
    z = torch.randn(batch, config.z_dim, generator=torch.Generator().manual_seed(batch))
    return z, torch.eye(config.c_dim)[torch.arange(batch) % config.c_dim] if config.c_dim else None


@pytest.fixture(scope="module", params=NETWORKS)
def pair(
    request: pytest.FixtureRequest, golden_generator: Callable[[str], Generator]
) -> tuple[str, Generator, FusedGenerator]:
    """Return (name of the golden file, readable, fused)."""
    generator = golden_generator(request.param)
    return request.param, generator, FusedGenerator(generator)


@torch.no_grad()
@pytest.mark.parametrize("psis", [[1.0], [0.0, 0.7, 1.3]])
def test_draws_what_the_readable_generator_draws(
    pair: tuple[str, Generator, FusedGenerator], psis: list[float]
) -> None:
    _, generator, fused = pair
    z, c = inputs(generator, len(psis))
    psi = torch.tensor(psis)
    expected = generator(z, c, psi=psi)
    assert (fused(z, psi, c) - expected).abs().max() < TOLERANCE * max(1.0, float(expected.abs().max()))


def test_draws_the_golden_images(
    pair: tuple[str, Generator, FusedGenerator], golden: Callable[[str], Mapping[str, np.ndarray]]
) -> None:
    name, _, fused = pair
    data = golden(name)
    z = torch.from_numpy(data["z"]).float()
    c = torch.from_numpy(data["c"]).float() if "c" in data else None
    for psi, key in ((1.0, "img_const"), (0.7, "img_const_psi0.7")):
        image = fused(z, torch.full((len(z),), psi), c)
        assert np.abs(image.numpy() - data[key]).max() < 2e-5  # tolerance of the golden data itself


@pytest.mark.parametrize("kind", ["stylegan2", "stylegan3"])
def test_psi_is_taken_per_sample(kind: str) -> None:
    generator = random_generator((4, 3, 5, 2)) if kind == "stylegan2" else random_stylegan3((4, 3, 5, 2, 3))
    z, _ = inputs(generator, 5)
    psi = torch.tensor([0.0, 0.3, 0.7, 1.0, 1.2])
    together = FusedGenerator(generator)(z, psi)
    for row in range(5):
        alone = generator(z[row : row + 1], psi=float(psi[row]))
        # Relative: with few channels of random weights the magnitude is above 1.
        assert (together[row] - alone[0]).abs().max() < TOLERANCE * max(1.0, float(alone.abs().max()))


def test_uint8_is_the_truncated_image_channels_last(unconditional: Generator) -> None:
    z, _ = inputs(unconditional, 3)
    psi = torch.full((3,), 0.7)
    image = FusedGenerator(unconditional)(z, psi)
    expected = (image.permute(0, 2, 3, 1) * 127.5 + 128).clip(0, 255).numpy().astype(np.uint8)
    assert np.array_equal(FusedGenerator(unconditional, image="uint8")(z, psi).numpy(), expected)


def test_uint8_ends_are_reached_and_not_wrapped() -> None:
    image = (
        torch.tensor([-5.0, -1.0, -0.5 / 127.5, 0.0, 126.9 / 127.5, 1.0, 5.0]).reshape(1, 1, 1, 7).expand(1, 3, 1, 7)
    )
    assert to_uint8(image)[0, 0, :, 0].tolist() == [0, 0, 127, 128, 254, 255, 255]


@pytest.mark.parametrize("kind", ["stylegan2", "stylegan3"])
def test_later_changes_of_the_generator_do_not_reach_it(kind: str) -> None:
    generator = random_generator((4, 3, 5, 2)) if kind == "stylegan2" else random_stylegan3((4, 3, 5, 2, 3))
    z, _ = inputs(generator, 1)
    fused = FusedGenerator(generator)
    before = fused(z, torch.ones(1))
    for tensor in generator.state_dict().values():
        tensor.zero_()
    assert torch.equal(fused(z, torch.ones(1)), before)


@pytest.mark.parametrize("option", [{"upsample": "nearest"}, {"noise": "random"}, {"image": "uint16"}])
def test_unknown_options_are_named(option: dict[str, str], unconditional: Generator) -> None:
    with pytest.raises(UsageError, match=next(iter(option.values()))):
        FusedGenerator(unconditional, **option)  # type: ignore[arg-type]


def test_polyphase_is_refused_for_stylegan3() -> None:
    with pytest.raises(UsageError, match="'polyphase' is for a StyleGAN2"):
        FusedGenerator(random_stylegan3((4, 3, 5, 2, 3)), upsample="polyphase")


def test_noise_makes_no_difference_to_stylegan3() -> None:
    generator = random_stylegan3((4, 3, 5, 2, 3))
    z, _ = inputs(generator, 2)
    images = [FusedGenerator(generator, noise=noise)(z, torch.ones(2)) for noise in ("const", "none")]  # type: ignore[arg-type]
    assert torch.equal(*images)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch's own
@pytest.mark.parametrize("name", ["sg2ada_32_cond_clamp", "sg3t_32"])
def test_the_exported_program_returns_the_same_images(name: str, golden_generator: Callable[[str], Generator]) -> None:
    network = fused(golden_generator(name))
    z, c = inputs(network, 2)  # type: ignore[arg-type]  # it has the same config
    arguments = (z, torch.tensor([0.7, 1.0]), c)
    expected = network(*arguments)
    program = torch.export.export(network, arguments)
    assert torch.equal(program.module()(*arguments), expected)
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not any("dcp_deploy" in target for target in called)
    assert torch.equal(program.run_decompositions().module()(*arguments), expected)
    assert torch.equal(FusedGenerator(golden_generator(name))(*arguments), expected)
