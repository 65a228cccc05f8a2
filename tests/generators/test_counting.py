"""Networks have their published sizes (from the documentation of the papers' released code)."""

from __future__ import annotations

from typing import Literal

import pytest

from dcp_deploy.generators import Generator, GeneratorConfig, count_macs, count_parameters, layer_macs


@pytest.mark.parametrize(
    ("resolution", "channel_base", "parameters", "macs"),
    [
        (256, 32768, 30_034_338, 45_124_673_536),
        (256, 16384, 24_767_458, 14_903_009_280),
        (512, 32768, 30_276_583, 59_670_650_880),
        (1024, 32768, 30_370_060, 74_266_894_336),
    ],
)
def test_published_networks_have_their_published_size(
    resolution: int, channel_base: int, parameters: int, macs: int
) -> None:
    config = GeneratorConfig.stylegan2(resolution, channel_base=channel_base)
    assert (count_parameters(config), count_macs(config)) == (parameters, macs)


@pytest.mark.parametrize(
    ("resolution", "variant", "channel_base", "parameters"),
    [
        (256, "t", 16384, 23_320_443),
        (512, "t", 32768, 24_873_519),
        (1024, "t", 32768, 22_313_167),
        (256, "r", 16384, 15_779_565),
        (512, "r", 32768, 16_665_594),
        (1024, "r", 32768, 15_093_151),
    ],
)
def test_stylegan3_networks_have_their_published_parameters(
    resolution: int, variant: Literal["t", "r"], channel_base: int, parameters: int
) -> None:
    assert count_parameters(GeneratorConfig.stylegan3(resolution, variant, channel_base=channel_base)) == parameters


def test_half_the_width_takes_half_the_convolutions() -> None:
    square, half = (layer_macs(GeneratorConfig.stylegan2(64, base=base)) for base in ((4, 4), (4, 2)))
    styles = 512 * 512  # of the affine layer, which does not depend on the size
    for name in ("b4.conv1", "b64.conv0", "b64.conv1", "b64.torgb"):
        assert square[name] - styles == 2 * (half[name] - styles)
    assert count_parameters(GeneratorConfig.stylegan2(64, base=(4, 2))) == (
        count_parameters(GeneratorConfig.stylegan2(64)) - 512 * 8
    )


def test_a_stylegan3_layer_counts_every_position_of_its_convolution() -> None:
    config = GeneratorConfig.stylegan3(32, channel_base=512, channel_max=32, w_dim=16)
    macs = layer_macs(config)
    assert macs["L0"] == 9 * 32 * 32 * 38**2 + 16 * 32
    assert macs["L14"] == 16 * 3 * 32**2 + 16 * 16
    assert macs["input"] == 32 * 32 * 36**2 + 4 * 16
    assert sum(macs.values()) == count_macs(config)


def test_a_generator_and_its_config_count_the_same(tiny_generator: Generator) -> None:
    assert count_parameters(tiny_generator) == count_parameters(tiny_generator.config)
    assert count_macs(tiny_generator) == count_macs(tiny_generator.config)
