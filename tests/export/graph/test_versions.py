"""The opset and the IR version of a file."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from dcp_deploy.errors import UsageError
from dcp_deploy.export.graph.versions import check_versions, lower_opset, versions_of


def parsed(body: str, constants: str = "") -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["": 18]> g (float[2, 6] x) => (float[n, m] y) {constants} {{ {body} }}'
    return onnx.parser.parse_model(text)


def test_reductions_get_their_axes_as_attributes() -> None:
    model = parsed("y = ReduceMax <keepdims = 1, noop_with_empty_axes = 0> (x, axes)", "<int64[1] axes = {1}>")
    x = np.random.default_rng(0).standard_normal((2, 6)).astype(np.float32)
    before = ReferenceEvaluator(model).run(None, {"x": x})[0]
    assert lower_opset(model) == []
    onnx.checker.check_model(model, full_check=True)
    assert versions_of(model) == (8, 17) and not model.graph.initializer
    assert np.array_equal(ReferenceEvaluator(model).run(None, {"x": x})[0], before)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("y, rest = Split <axis = 1, num_outputs = 2> (x)", "splits into a number of parts"),
        ("axes = Constant <value_ints = [1]> () y = ReduceMean (x, axes)", "its axes are not constant"),
    ],
)
def test_what_needs_opset_18_is_named_and_left_as_it_is(body: str, reason: str) -> None:
    model = parsed(body)
    before = model.SerializeToString()
    (need,) = lower_opset(model)
    assert reason in need and "needs opset 18" in need
    assert model.SerializeToString() == before


@pytest.mark.parametrize(
    ("opset", "ir", "words"),
    [
        (16, None, "opset 16 is not one of 17 to"),
        (99, None, "opset 99 is not one of 17 to"),
        (None, 7, "IR version 7 is not one of 8 to"),
        (None, 99, "IR version 99 is not one of 8 to"),
    ],
)
def test_versions_that_do_not_fit_are_refused_with_the_reason(opset: int | None, ir: int | None, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        check_versions(opset, ir)
    assert caught.value.remedy.startswith("Use ")


def test_versions_that_fit_pass() -> None:
    check_versions(None, None)
    check_versions(17, 8)
    check_versions(onnx.defs.onnx_opset_version(), onnx.IR_VERSION)
