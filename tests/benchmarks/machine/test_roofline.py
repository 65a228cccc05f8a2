"""Floors of known work at known rates."""

from __future__ import annotations

import pytest
import torch

from dcp_deploy.benchmarks.machine.roofline import Ceiling, Rate, Work, machine_ceilings, measured_ceilings, roofline

LIMITS = (Rate("mm", "cpu", "compute", "fp32", 100e9, 5), Rate("copy", "cpu", "memory", "", 10e9, 5))


def test_bfloat16_in_openvino_has_no_floor_on_a_cpu():
    assert roofline(Work(10**9, 10, 20), LIMITS, "cpu", "bf16", 50.0) is not None
    assert roofline(Work(10**9, 10, 20), LIMITS, "cpu", "bf16", 50.0, backend="openvino") is None


def test_the_floor_is_the_longer_of_compute_and_memory_time():
    computing = roofline(Work(2_000_000_000, 10, 20), LIMITS, "cpu", "fp32", 50.0)
    assert (computing.floor_ms, computing.bound, computing.of_floor) == (
        pytest.approx(20),
        "compute",
        pytest.approx(2.5),
    )
    moving = roofline(Work(10, 50_000_000, 20), LIMITS, "cpu", "fp32", 50.0)
    assert (moving.floor_ms, moving.bound, moving.of_floor) == (pytest.approx(5), "memory", pytest.approx(10))


def test_a_cpu_computes_half_precisions_in_float32():
    full, half = (roofline(Work(10**9, 10, 20), LIMITS, "cpu", precision, 50.0) for precision in ("fp32", "fp16"))
    assert full == half


@pytest.mark.parametrize(("device", "precision"), [("cpu", "int8"), ("cuda", "fp32")])
def test_without_a_measured_rate_nothing_has_a_floor(device, precision):
    assert roofline(Work(10**9, 10, 20), LIMITS, device, precision, 50.0) is None


def test_rates_are_those_of_the_median_call():
    ceiling = Ceiling("mm", "cpu", "compute", "fp32", lambda: None, 30.0)
    (rate,) = measured_ceilings([ceiling], {"mm": [1.0, 3.0, 100.0]})
    assert (rate.per_second, rate.count) == (10.0, 3)


def test_ceilings_are_a_product_and_a_copy_and_restore_the_threads():
    before = torch.get_num_threads()
    ceilings = machine_ceilings(["cpu", "cpu"], threads=1)
    assert [(one.kind, one.precision) for one in ceilings] == [("compute", "fp32"), ("memory", "")]
    for one in ceilings:
        one.run()
        assert one.amount > 1e6
    assert torch.get_num_threads() == before
