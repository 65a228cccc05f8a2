"""Configs refuse what cannot be built."""

from __future__ import annotations

import pytest

from dcp_deploy.generators import DiscriminatorConfig, GeneratorConfig


def test_a_config_survives_the_round_trip_through_plain_values() -> None:
    config = GeneratorConfig(8, (4, 5, 6, 7), c_dim=3, conv_clamp=256.0)
    assert GeneratorConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 48}, "48"),
        ({"widths": (4, 4)}, "needs 4 widths, got 2"),
        ({"widths": (4, 0, 4, 4)}, "positive"),
        ({"kind": "biggan"}, "biggan"),
        ({"conv_clamp": -1.0}, "-1.0"),
        ({"w_dim": 0}, "w_dim"),
    ],
)
def test_impossible_configs_are_refused_by_value(changes: dict[str, object], message: str) -> None:
    values = {"resolution": 8, "widths": (4, 4, 4, 4), **changes}
    with pytest.raises(ValueError, match=message):
        GeneratorConfig(**values)  # type: ignore[arg-type]


def test_unknown_entries_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="channel_multiplier"):
        GeneratorConfig.from_dict({"resolution": 8, "widths": [4] * 4, "channel_multiplier": 2})


def test_the_discriminator_mirrors_the_generator() -> None:
    config = DiscriminatorConfig.mirror(GeneratorConfig(16, (9, 8, 7, 6, 5, 4), c_dim=2))
    assert (config.resolution, config.widths, config.c_dim) == (16, (4, 6, 8), 2)
