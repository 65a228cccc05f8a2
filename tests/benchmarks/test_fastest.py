"""The fastest candidate is taken only if its images pass."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from dcp_deploy.benchmarks.candidates.matrix import Spec
from dcp_deploy.benchmarks.fastest import fastest_that_passes
from dcp_deploy.errors import InputError

TORCH = Spec("student", "a/s.safetensors", "torch")
FP32 = Spec("student", "a/s.onnx", "onnxruntime")
OPEN = Spec("student", "a/s.onnx", "openvino")
INT8 = Spec("student", "a/s-int8.onnx", "openvino")
TEACHER = Spec("teacher", "a/t.onnx", "onnxruntime")


def report(times: dict[Spec, float]) -> SimpleNamespace:
    """Return what bench reports, without the parts that are not read."""
    rows = [
        SimpleNamespace(
            name=f"{spec.backend} {spec.path}",
            batch=spec.batch,
            summary=SimpleNamespace(p50_ms=milliseconds),
            labels={
                "model": spec.model,
                "backend": spec.backend,
                "file": spec.path.partition("/")[2],
                "precision": "int8" if "int8" in spec.path else "fp32",
            },
        )
        for spec, milliseconds in times.items()
    ]
    return SimpleNamespace(rows=rows)


def gate(*failing: Spec):
    """Return a comparison that those fail, and the list of what it was asked."""
    asked: list[tuple[Spec, Spec]] = []

    def compare(reference: Spec, other: Spec) -> SimpleNamespace:
        asked.append((reference, other))
        return SimpleNamespace(passed=other not in failing, psnr_db=30.0)

    return compare, asked


@pytest.mark.parametrize(("failing", "expected", "tried"), [((), INT8, 1), ((INT8,), OPEN, 2), ((INT8, OPEN), FP32, 3)])
def test_candidates_are_compared_from_the_fastest_on_until_one_passes(failing, expected, tried):
    times = {TEACHER: 90.0, TORCH: 300.0, FP32: 80.0, OPEN: 50.0, INT8: 20.0}
    compare, asked = gate(*failing)
    found = fastest_that_passes(report(times), list(times), compare)
    assert found.name == f"{expected.backend} {expected.path}"
    assert (len(found.tried), {reference for reference, _ in asked}) == (tried, {TORCH})
    assert f"Fastest with the images of torch a/s.safetensors: {found.name}, " in found.sentence()
    assert ("with other images: openvino a/s-int8.onnx (20.00 ms)" in found.sentence()) is bool(failing)


def test_a_runtime_that_fails_in_the_gates_batches_does_not_pass():
    def compare(reference: Spec, other: Spec) -> SimpleNamespace:
        if other == INT8:
            raise InputError("openvino cannot run a/s-int8.onnx on a batch of 3: no memory")
        return SimpleNamespace(passed=True, psnr_db=None)

    found = fastest_that_passes(report({TORCH: 300.0, FP32: 80.0, INT8: 20.0}), [TORCH, FP32, INT8], compare)
    assert [(one.passed, one.p50_ms) for one in found.tried] == [(False, 20.0), (True, 80.0)]


def test_without_a_checkpoint_the_float32_file_is_the_reference():
    compare, asked = gate(INT8, FP32)
    found = fastest_that_passes(report({FP32: 80.0, INT8: 20.0}), [FP32, INT8], compare)
    assert found.name is None and asked == [(FP32, INT8), (FP32, FP32)]
    assert found.sentence().startswith("No backend generates the images of")


@pytest.mark.parametrize("times", [{TORCH: 300.0, OPEN: 50.0}, {OPEN: 50.0, INT8: 20.0}, {TEACHER: 9.0, TORCH: 3.0}])
def test_without_a_choice_or_a_reference_nothing_is_found(times):
    compare, asked = gate()
    assert fastest_that_passes(report(times), list(times), compare) is None
    assert not asked


def test_only_the_smallest_batch_counts():
    larger = Spec("student", "a/s.onnx", "openvino", batch=8)
    compare, _ = gate()
    times = {FP32: 80.0, OPEN: 50.0, larger: 1.0}
    assert fastest_that_passes(report(times), list(times), compare).tried[0].p50_ms == 50.0
