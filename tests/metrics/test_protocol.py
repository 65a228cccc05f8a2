"""Names of measurements, and the caveats beside them."""

from __future__ import annotations

from typing import Any

import pytest

from dcp_deploy.metrics.protocol import data_caveats, psi_caveat, recipe_name

SETTINGS: dict[str, Any] = {"mirrored": False, "psi": 1.0, "features": "inception"}
GOOD = {"psi": 1.0, "samples": 50_000, "reals": 70_000, "mirrored": False, "features": "inception"}


@pytest.mark.parametrize(
    ("samples", "reals", "available", "changed", "name"),
    [
        (50_000, 70_000, 70_000, {}, "fid50k_full"),
        (50_000, 1336, 1336, {}, "fid50k_full"),
        (50_000, 70_000, 70_000, {"mirrored": True}, "fid50k_full, mirrored"),
        (50_000, 50_000, 70_000, {}, "fid50k"),
        (50_000, 50_000, 70_000, {"mirrored": True}, "fid50k, 50,000 reals of 70,000, mirrored"),
        (50_000, 70_000, 70_000, {"psi": 0.7}, "fid50k_full, psi 0.7"),
        (5000, 5000, 70_000, {}, "fid5k, 5,000 reals of 70,000"),
        (5000, 12, 12, {}, "fid5k, all 12 reals"),
        (1234, 12, 12, {}, "fid of 1,234 samples, all 12 reals"),
        (50_000, 12, 12, {"features": "means"}, "fid50k in means, all 12 reals"),
    ],
)
def test_only_the_published_recipe_has_the_published_name(
    samples: int, reals: int, available: int, changed: dict[str, Any], name: str
) -> None:
    assert recipe_name(samples, reals, available, **{**SETTINGS, **changed}) == name


def test_a_published_measurement_has_no_caveats() -> None:
    assert data_caveats(GOOD, {"PNG": 256}, 2048) == []
    assert psi_caveat(1.0) == []


@pytest.mark.parametrize(
    ("changed", "formats", "words"),
    [
        ({"psi": 0.7}, {"PNG": 9}, "psi 0.7: truncation"),
        ({"features": "efficientnet-lite0"}, {"PNG": 9}, "features of efficientnet-lite0: not comparable"),
        ({"samples": 2048}, {"PNG": 9}, "2,048 samples for 2,048 features"),
        ({"reals": 9999}, {"PNG": 9}, "9,999 real images: few"),
        ({}, {"PNG": 5, "JPEG": 4}, "4 of 9 real images looked at are JPEG"),
    ],
)
def test_each_departure_is_one_caveat(changed: dict[str, Any], formats: dict[str, int], words: str) -> None:
    (caveat,) = data_caveats({**GOOD, **changed}, formats, 2048)
    assert words in caveat


def test_mirrored_images_count_for_the_rank() -> None:
    few = {**GOOD, "reals": 1500}
    assert "1,500 real images for" in " ".join(data_caveats(few, {"PNG": 9}, 2048))
    assert "for 2,048 features" not in " ".join(data_caveats({**few, "mirrored": True}, {"PNG": 9}, 2048))
