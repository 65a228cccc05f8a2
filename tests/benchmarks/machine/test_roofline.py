"""Floors of known work at known rates."""

from __future__ import annotations

import pytest
import torch

from dcp_deploy.benchmarks.machine.roofline import Ceiling, Rate, Work, machine_ceilings, measured_ceilings, roofline

LIMITS = (Rate("mm", "cpu", "compute", "fp32", 100e9, 5), Rate("copy", "cpu", "memory", "", 10e9, 5))


NARROW = (*LIMITS, Rate("mm", "cpu", "compute", "bf16", 400e9, 5), Rate("mm", "cpu", "compute", "int8", 800e9, 5))


@pytest.mark.parametrize(
    ("backend", "limits", "floor_ms"),
    [("openvino", NARROW, 2.5), ("openvino", LIMITS, 10), ("onnxruntime", NARROW, 10)],
)
def test_bfloat16_counts_where_the_backend_and_the_processor_multiply_it(backend, limits, floor_ms):
    found = roofline(Work(10**9, 10, 20), limits, "cpu", "bf16", 50.0, backend=backend)
    assert found.floor_ms == pytest.approx(floor_ms)


@pytest.mark.parametrize(("backend", "floor_ms"), [("openvino", 0.5 + 1.5), ("onnxruntime", 2 + 1.5)])
def test_an_int8_file_adds_its_integer_and_its_other_products(backend, floor_ms):
    work = Work(1_400_000_000, 10, 20, int8_operations=1_200_000_000)
    found = roofline(work, NARROW, "cpu", "int8", 50.0, backend=backend)
    assert (found.floor_ms, found.int8_operations) == (pytest.approx(floor_ms), 1_200_000_000)
    assert roofline(work, LIMITS, "cpu", "int8", 50.0, backend=backend) is None  # int8 was not measured


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


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_without_a_measured_rate_nothing_has_a_floor(precision):
    assert roofline(Work(10**9, 10, 20), LIMITS, "cuda", precision, 50.0) is None


def test_rates_are_those_of_the_median_call():
    ceiling = Ceiling("mm", "cpu", "compute", "fp32", lambda: None, 30.0)
    (rate,) = measured_ceilings([ceiling], {"mm": [1.0, 3.0, 100.0]})
    assert (rate.per_second, rate.count) == (10.0, 3)


@pytest.mark.parametrize(
    ("has", "precisions"),
    [
        ({"amx_bf16": True, "amx_int8": True}, ["fp32", "bf16", "int8"]),
        ({"avx512_vnni": True}, ["fp32", "int8"]),
        ({}, ["fp32"]),
    ],
)
def test_ceilings_are_what_the_processor_multiplies_and_a_copy(monkeypatch, has, precisions):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    monkeypatch.setattr("dcp_deploy.benchmarks.machine.roofline.CPU_SIDES", dict.fromkeys(precisions, 64))
    before = torch.get_num_threads()
    ceilings = machine_ceilings(["cpu", "cpu"], threads=1)
    assert [one.precision for one in ceilings if one.kind == "compute"] == precisions
    assert [one.kind for one in ceilings][-1] == "memory"
    for one in ceilings:
        one.run()
        assert one.amount > 1e5
    assert torch.get_num_threads() == before
