from __future__ import annotations

import math
from dataclasses import asdict

import pytest

from dcp_deploy.errors import UsageError
from dcp_deploy.export import Tolerance, tolerance_for
from dcp_deploy.export.parity.tolerance import Check


def test_float32_has_the_default_limits() -> None:
    assert tolerance_for("fp32") == Tolerance()


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_rounded_precisions_are_bounded_on_average_in_the_tail_and_per_image(precision: str) -> None:
    tolerance = tolerance_for(precision)
    assert None not in (tolerance.mean_abs, tolerance.p999_abs, tolerance.psnr_db, tolerance.ssim)


def test_a_coarser_precision_has_wider_limits() -> None:
    half, brain, byte = (tolerance_for(name) for name in ("fp16", "bf16", "int8"))
    for name in ("mean_abs", "p999_abs", "layer"):
        assert asdict(half)[name] < asdict(brain)[name] < asdict(byte)[name]
    for name in ("psnr_db", "ssim"):
        assert asdict(half)[name] > asdict(brain)[name] > asdict(byte)[name]


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UsageError, match="precision is 'fp8'"):
        tolerance_for("fp8")


def test_a_tolerance_that_passes_everything_is_refused() -> None:
    with pytest.raises(UsageError, match="passes everything"):
        Tolerance(None, None, None)


def test_nan_passes_no_check() -> None:
    for check in (Check.at_most("x", math.nan, 1, ""), Check.at_least("x", math.nan, 1, "")):
        assert not check.passed and check.value is None


def test_checks_compare_in_their_direction() -> None:
    assert [Check.at_most("x", value, 1, "").passed for value in (0, 1, 2)] == [True, True, False]
    assert [Check.at_least("x", value, 1, "").passed for value in (0, 1, math.inf)] == [False, True, True]
