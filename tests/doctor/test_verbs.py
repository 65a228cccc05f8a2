"""The status of each verb follows from the verdicts on the capabilities."""

from __future__ import annotations

import pytest

from dcp_deploy.doctor.diagnosis import diagnose
from dcp_deploy.doctor.verbs import LIMITS, NEEDS, Verdict, verb_statuses

from ..cli.conftest import VERBS

FOUND = [finding.name for finding in diagnose().findings]


def verdicts(**changed: Verdict) -> dict[str, Verdict]:
    """Return "ok" for every capability except those named, as in ``ONNX_Runtime="missing"``."""
    return {**dict.fromkeys(FOUND, "ok"), **{name.replace("_", " "): value for name, value in changed.items()}}


def status(verb: str, **changed: Verdict) -> tuple[str, str]:
    (found,) = [one for one in verb_statuses(verdicts(**changed)) if one.verb == verb]
    return found.verdict, found.words


def test_every_verb_depends_on_capabilities_that_are_probed() -> None:
    assert set(NEEDS) == set(VERBS) and set(LIMITS) <= set(VERBS)
    named = [name for needs in (*NEEDS.values(), *LIMITS.values()) for name in needs]
    assert {one for name in named for one in name.split(" or ")} <= set(FOUND)


def test_every_verb_works_if_nothing_is_missing() -> None:
    assert {(one.verdict, one.words) for one in verb_statuses(verdicts())} == {("ok", "")}


@pytest.mark.parametrize("verb", ["build", "bundle"])
def test_a_verb_without_a_needed_capability_does_not_work(verb: str) -> None:
    assert status(verb, ONNX_Runtime="missing") == ("missing", "needs ONNX Runtime")


def test_a_verb_without_an_optional_capability_is_limited() -> None:
    assert status("verify", ONNX_Runtime="missing") == ("limited", "no ONNX files and bundles")
    assert status("verify", ONNX_Runtime="limited") == ("ok", "")
    assert status("distill", memory="limited") == ("limited", "may run out of memory")
    assert status("build", published_features="missing") == ("limited", "no --lpips and no FID against --data")


def test_one_of_the_two_engine_builders_is_enough() -> None:
    changed: dict[str, Verdict] = {"TensorRT-RTX": "missing"}
    assert status("engine", **changed)[0] == "ok"
    assert status("engine", TensorRT="missing", **changed) == ("missing", "needs TensorRT-RTX or TensorRT")
    assert status("build", TensorRT="missing", **changed) == ("limited", "no engine")
