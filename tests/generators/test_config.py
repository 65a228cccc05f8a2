"""Configs refuse what cannot be built."""

from __future__ import annotations

import json

import pytest

from dcp_deploy.generators import DiscriminatorConfig, Generator, GeneratorConfig, StyleGAN3Layout


def test_a_config_survives_the_round_trip_through_plain_values() -> None:
    config = GeneratorConfig(8, (4, 5, 6, 7), c_dim=3, conv_clamp=256.0)
    assert GeneratorConfig.from_dict(config.to_dict()) == config


def test_a_stylegan3_config_survives_the_round_trip_through_json() -> None:
    config = GeneratorConfig.stylegan3(32, "r", channel_base=256, channel_max=16, c_dim=2)
    assert GeneratorConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_square_config_is_written_as_before_rectangles() -> None:
    """Hashes and cache keys of existing files depend on it."""
    assert "base" not in GeneratorConfig(8, (4, 5, 6, 7)).to_dict()
    assert "base" not in DiscriminatorConfig(8, (4, 5)).to_dict()


def test_a_rectangular_config_survives_the_round_trip_through_json() -> None:
    config = GeneratorConfig(8, (4, 5, 6, 7), base=(4, 2))
    assert GeneratorConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("base", "size"), [((4, 4), (32, 32)), ((4, 2), (32, 16)), ((4, 6), (32, 48)), ((9, 16), (72, 128))]
)
def test_every_block_doubles_the_size_of_the_constant(base: tuple[int, int], size: tuple[int, int]) -> None:
    config = GeneratorConfig(32, (4,) * 8, base=base)
    assert (config.size_at(4), config.size_at(8)) == (base, (2 * base[0], 2 * base[1]))
    assert config.image_size == size


def test_layers_are_named_after_what_makes_their_channels(tiny_generator: Generator) -> None:
    names = tiny_generator.config.layer_names
    assert names == ("b4.const", *(name for name, _ in tiny_generator.synthesis.convs()))  # type: ignore[operator]
    third = GeneratorConfig.stylegan3(32)
    assert third.layer_names == ("input", *(f"L{i}" for i in range(14)))
    assert len(third.layer_names) == len(third.widths)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 48}, "48"),
        ({"widths": (4, 4)}, "needs 4 widths, got 2"),
        ({"widths": (4, 0, 4, 4)}, "positive"),
        ({"kind": "biggan"}, "biggan"),
        ({"conv_clamp": -1.0}, "-1.0"),
        ({"w_dim": 0}, "w_dim"),
        ({"mapping_layers": 10**9}, "1000000000"),
        ({"z_dim": 2.5}, "2.5"),
        ({"widths": (4, 4, 4, "4")}, "positive"),
        ({"widths": (4, 4, 4, 10**9)}, "1000000000"),
        ({"c_dim": 10**9}, "1000000000"),
        ({"mapping_lr_multiplier": "0.01"}, "'0.01'"),
        ({"kind": "stylegan3"}, "layout"),
        ({"layout": StyleGAN3Layout(4)}, "layout"),
        ({"base": (4,)}, "base"),
        ({"base": (4, 0)}, "base"),
        ({"base": (4, 2.5)}, "2.5"),
        ({"base": (4, 5000)}, "8192"),
    ],
)
def test_impossible_configs_are_refused_by_value(changes: dict[str, object], message: str) -> None:
    values = {"resolution": 8, "widths": (4, 4, 4, 4), **changes}
    with pytest.raises(ValueError, match=message):
        GeneratorConfig(**values)  # type: ignore[arg-type]


def test_a_rectangular_stylegan3_is_refused() -> None:
    with pytest.raises(ValueError, match=r"StyleGAN3 makes square images only.*\(4, 2\)"):
        GeneratorConfig.stylegan3(32, base=(4, 2))


def test_a_base_that_is_not_a_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="int"):
        GeneratorConfig.from_dict({**GeneratorConfig(8, (4,) * 4).to_dict(), "base": 4})


@pytest.mark.parametrize("layout", [{"fourier_features": 4, "colour": 1}, {"fourier_features": "4"}, "r"])
def test_ill_typed_layouts_are_refused(layout: object) -> None:
    values = {**GeneratorConfig.stylegan3(32).to_dict(), "layout": layout}
    with pytest.raises(ValueError, match=r"colour|fourier_features|mapping"):
        GeneratorConfig.from_dict(values)


def test_unknown_entries_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="channel_multiplier"):
        GeneratorConfig.from_dict({"resolution": 8, "widths": [4] * 4, "channel_multiplier": 2})


def test_the_discriminator_mirrors_the_generator() -> None:
    config = DiscriminatorConfig.mirror(GeneratorConfig(16, (9, 8, 7, 6, 5, 4), c_dim=2))
    assert (config.resolution, config.widths, config.c_dim) == (16, (4, 6, 8), 2)
    assert DiscriminatorConfig.mirror(GeneratorConfig(16, (9, 8, 7, 6, 5, 4), base=(4, 2))).image_size == (16, 8)


def test_the_discriminator_of_stylegan3_has_the_widths_of_its_sampling_rates() -> None:
    config = DiscriminatorConfig.mirror(GeneratorConfig.stylegan3(256, channel_base=16384))
    assert config.widths == (64, 181, 512, 512, 512, 512, 512)
