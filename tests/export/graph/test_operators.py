from __future__ import annotations

import pytest

from dcp_deploy.export.graph.operators import operator_types, parts_of


def test_operator_types_are_the_32_of_the_three_families() -> None:
    types = operator_types()
    assert len(types) == len(set(types)) == 16 + 8 + 8
    assert {"ModConvEpilogue", "ModConvEpilogueShuffleNoiseNextClamp", "FirEpilogueNoiseClamp"} <= set(types)
    assert "ToRGBSkipClampBytes" in types


def test_an_operator_of_others_is_refused() -> None:
    with pytest.raises(ValueError, match="ModConvEpilogueBytes"):
        parts_of("ModConvEpilogueBytes")
