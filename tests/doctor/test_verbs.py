from __future__ import annotations

import pytest

from dcp_deploy.doctor.diagnosis import diagnose
from dcp_deploy.doctor.verbs import HELPS, NEEDS, Verdict, abilities

from ..cli.conftest import VERBS

FOUND = [finding.name for finding in diagnose().findings]


def verdicts(**changed: Verdict) -> dict[str, Verdict]:
    """Everything is there, but for what is named: ``ONNX_Runtime="missing"``."""
    return {**dict.fromkeys(FOUND, "ok"), **{name.replace("_", " "): value for name, value in changed.items()}}


def told(verb: str, **changed: Verdict) -> tuple[str, str]:
    (ability,) = [one for one in abilities(verdicts(**changed)) if one.verb == verb]
    return ability.verdict, ability.words


def test_every_verb_is_judged_by_capabilities_that_the_doctor_looks_for() -> None:
    assert set(NEEDS) == set(VERBS) and set(HELPS) <= set(VERBS)
    named = [name for needs in (*NEEDS.values(), *HELPS.values()) for name in needs]
    assert {one for name in named for one in name.split(" or ")} <= set(FOUND)


def test_with_everything_every_verb_works() -> None:
    assert {(ability.verdict, ability.words) for ability in abilities(verdicts())} == {("ok", "")}


@pytest.mark.parametrize("verb", ["build", "bundle"])
def test_a_verb_without_what_it_needs_does_not_work(verb: str) -> None:
    assert told(verb, ONNX_Runtime="missing") == ("missing", "needs ONNX Runtime")


def test_a_verb_may_do_less() -> None:
    assert told("verify", ONNX_Runtime="missing") == ("limited", "no ONNX files and bundles")
    assert told("verify", ONNX_Runtime="limited") == ("ok", "")
    assert told("distill", memory="limited") == ("limited", "may run out of memory")
    assert told("build", published_features="missing") == ("limited", "no --lpips and no FID against --data")


def test_one_of_two_engines_builders_is_enough() -> None:
    changed: dict[str, Verdict] = {"TensorRT-RTX": "missing"}
    assert told("engine", **changed)[0] == "ok"
    assert told("engine", TensorRT="missing", **changed) == ("missing", "needs TensorRT-RTX or TensorRT")
    assert told("build", TensorRT="missing", **changed) == ("limited", "no engine")
