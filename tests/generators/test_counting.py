"""Published sizes of the networks (method.md of the papers' released code, checked by hand)."""

from __future__ import annotations

import pytest

from dcp_deploy.generators import Generator, GeneratorConfig, count_macs, count_parameters


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


def test_a_generator_and_its_config_count_the_same(tiny_generator: Generator) -> None:
    assert count_parameters(tiny_generator) == count_parameters(tiny_generator.config)
    assert count_macs(tiny_generator) == count_macs(tiny_generator.config)
