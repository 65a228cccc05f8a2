"""Requirements on figures: what they may say, and the verdict on them."""

from __future__ import annotations

import math
import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcp_deploy.errors import QualityError, UsageError
from dcp_deploy.gates import LATENTS, QUALITY, judge, parse_requirements

KNOWN = (*QUALITY, *LATENTS, "speedup")
OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(st.sampled_from(QUALITY), st.sampled_from(list(OPERATORS)), NUMBERS, NUMBERS, st.sampled_from(["", " "]))
def test_a_requirement_is_the_comparison_that_it_shows(
    metric: str, sign: str, limit: float, value: float, space: str
) -> None:
    parsed = parse_requirements([f"{metric}{space}{sign}{space}{limit!r}"], KNOWN)
    verdict = judge(parsed, {metric: value})
    assert verdict.passed == OPERATORS[sign](value, limit)
    assert verdict.requirements[0].limit == limit


@given(st.sampled_from(QUALITY), NUMBERS, NUMBERS, NUMBERS)
def test_a_limit_may_be_a_share_of_the_teachers_figure(metric: str, share: float, teacher: float, value: float) -> None:
    parsed = parse_requirements([f"{metric}>={share!r}*teacher"], KNOWN)
    assert judge(parsed, {metric: value}, {metric: teacher}).passed == (value >= share * teacher)


def test_the_teachers_figure_itself_may_be_the_limit() -> None:
    parsed = parse_requirements(["recall>=teacher"], KNOWN)
    assert judge(parsed, {"recall": 0.8}, {"recall": 0.8}).passed
    assert not judge(parsed, {"recall": 0.7}, {"recall": 0.8}).passed


@given(st.text(max_size=30))
def test_any_text_is_a_requirement_or_a_usage_error(text: str) -> None:
    try:
        parsed = parse_requirements([text], KNOWN)
    except UsageError as error:
        assert error.remedy
    else:
        assert all(one.metric in KNOWN and math.isfinite(one.limit) for one in parsed)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fid", "not a comparison"),
        ("fid=2", "not a comparison"),
        ("fdi<2", "fdi is not measured here"),
        ("fid<two", "'two' is not a finite number"),
        ("fid<nan", "not a finite number"),
        ("fid<1e300*teacher", "1e300 is too large"),
        ("fid<inf", "not a finite number"),
        ("speedup>0.5*teacher", "teacher's figure is not measured"),
        ("mixed_l1<2*teacher", "teacher's figure is not measured"),
    ],
)
def test_a_wrong_requirement_is_named(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        parse_requirements([text], KNOWN)
    assert text in caught.value.message


def test_a_misspelt_metric_gets_a_suggestion() -> None:
    with pytest.raises(UsageError) as caught:
        parse_requirements(["recal>0.5"], KNOWN)
    assert "Did you mean recall?" in caught.value.remedy


def test_without_a_teacher_its_figure_is_refused() -> None:
    with pytest.raises(UsageError, match="teacher's figure"):
        parse_requirements(["recall>=0.9*teacher"], KNOWN, teacher=False)


def test_none_means_without_requirements() -> None:
    assert judge(parse_requirements(["none"], KNOWN), {}).passed


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_figure_that_is_missing_or_not_finite_fails(value: float | None) -> None:
    verdict = judge(parse_requirements(["fid>0"], KNOWN), {"fid": value})
    assert not verdict.passed
    assert "was not measured" in verdict.requirements[0].text


def test_a_figure_that_cannot_be_trusted_fails_with_the_reason() -> None:
    verdict = judge(parse_requirements(["speedup>5"], KNOWN), {"speedup": 18.0}, untrusted={"speedup": "shared cores"})
    assert not verdict.passed
    assert verdict.requirements[0].text.endswith("cannot be trusted: shared cores")


def test_what_failed_and_by_how_much_is_in_the_error() -> None:
    verdict = judge(
        parse_requirements(["fid<2", "recall>=0.95*teacher", "coverage>0.1"], KNOWN),
        {"fid": 2.5, "recall": 0.7, "coverage": 0.9}, {"recall": 0.8},
    )  # fmt: skip
    with pytest.raises(QualityError) as caught:
        verdict.raise_for_failure()
    assert "fid 2.5, required below 2, missed by 0.5" in caught.value.message
    assert "recall 0.7, required at least 0.76 (0.95 x the teacher's 0.8), missed by 0.06" in caught.value.message
    assert "coverage" not in caught.value.message


def test_the_outcome_says_that_a_figure_equals_an_open_limit() -> None:
    assert judge(parse_requirements(["fid<2"], KNOWN), {"fid": 2.0}).requirements[0].text == (
        "fid 2, required below 2, and it is equal"
    )


def test_none_stands_alone() -> None:
    with pytest.raises(UsageError, match="stands beside others"):
        parse_requirements(["none", "fid<2"], KNOWN)
