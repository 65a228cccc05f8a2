"""StyleGAN3's synthesis against the reference implementation, and its own contracts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dcp_deploy.generators import Generator, GeneratorConfig

# Activations reach magnitude 8; fp32 with sums in another order.
ACTIVATION_TOLERANCE = 3e-5
IMAGE_TOLERANCE = 2e-5


@pytest.mark.parametrize("name", ["sg3t_32", "sg3r_64"])
@torch.no_grad()
def test_layer_outputs_equal_the_reference(
    name: str, golden: Callable[[str], Any], golden_generator: Callable[[str], Generator]
) -> None:
    data = golden(name)
    image, features = golden_generator(name).synthesis.features(torch.from_numpy(data["ws"][:1]))
    outputs = {**features, "L14": image / 0.25}
    compared = 0
    for key in data:
        if key.startswith("act/"):
            layer = key[4:].split("_")[0]
            expected = torch.from_numpy(data[key])
            torch.testing.assert_close(outputs[layer], expected, atol=ACTIVATION_TOLERANCE, rtol=0, msg=layer)
            compared += 1
    assert compared >= 1


@pytest.mark.parametrize("name", ["sg3t_32", "sg3r_64"])
@torch.no_grad()
def test_the_transform_moves_the_image_as_the_reference_does(
    name: str, golden: Callable[[str], Any], golden_generator: Callable[[str], Generator]
) -> None:
    data, generator = golden(name), golden_generator(name)
    generator.synthesis.get_buffer("input.transform").copy_(torch.from_numpy(data["transform_alt"]))
    images = generator.synthesis(torch.from_numpy(data["ws"]))
    expected = torch.from_numpy(data["img_const_transform_alt"])
    torch.testing.assert_close(images, expected, atol=IMAGE_TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["sg3t_32", "sg3t_64_cond_clamp", "sg3r_64"])
def test_fresh_filters_are_those_of_the_reference(
    name: str, golden: Callable[[str], Any], golden_generator: Callable[[str], Generator]
) -> None:
    loaded = golden_generator(name)
    fresh = Generator(loaded.config).state_dict()
    filters = {key: value for key, value in loaded.state_dict().items() if key.endswith("_filter")}
    assert len(filters) == 28
    for key, expected in filters.items():
        torch.testing.assert_close(fresh[key], expected, atol=1e-7, rtol=0, msg=key)  # designed in fp64, stored in fp32


@torch.no_grad()
def test_an_image_does_not_depend_on_the_rest_of_its_batch(golden_generator: Callable[[str], Generator]) -> None:
    generator = golden_generator("sg3t_32")
    ws = generator.mapping(torch.randn(3, 24, generator=torch.Generator().manual_seed(0)))
    alone = torch.cat([generator.synthesis(w[None]) for w in ws])
    torch.testing.assert_close(generator.synthesis(ws), alone, atol=1e-5, rtol=0)  # fp32, another blocking of sums


@torch.no_grad()
def test_features_until_a_layer_are_those_of_the_whole_network(golden_generator: Callable[[str], Generator]) -> None:
    generator = golden_generator("sg3t_32")
    ws = generator.mapping(torch.randn(1, 24, generator=torch.Generator().manual_seed(0)))
    _, features = generator.synthesis.features(ws)
    until = generator.synthesis.features_until(ws, "L2")
    assert list(until) == ["input", "L0", "L1", "L2"]
    assert all(torch.equal(until[name], features[name]) for name in until)


def test_ws_of_the_wrong_shape_are_refused() -> None:
    config = GeneratorConfig.stylegan3(16, channel_base=64, channel_max=4, z_dim=4, w_dim=4)
    with pytest.raises(ValueError, match=r"\[2, 15, 4\]"):
        Generator(config).synthesis(torch.zeros(2, 15, 4))
