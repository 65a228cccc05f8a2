from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from dcp_deploy.benchmarks.experiments import gpu, gpu_machine
from dcp_deploy.benchmarks.experiments.cuda_path import BASELINE, OURS
from dcp_deploy.benchmarks.experiments.gpu_tables import goals_table, judged, speed_table
from dcp_deploy.errors import MissingCapabilityError, UsageError
from dcp_deploy.files import read_json

from ...kernels.compiled import compiled_folder
from ...kernels.host import compile_for_host, emulated_operators, emulator_of

GPU_TEST = "import pytest\n@pytest.mark.gpu\ndef test_nothing(): pass\n"


@pytest.fixture(scope="session")
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> gpu_machine.Machine:
    try:
        run = emulator_of(compile_for_host(compiled_folder(request, tmp_path_factory)))
    except MissingCapabilityError as error:
        pytest.skip(str(error))
    return gpu_machine.emulated(run, partial(emulated_operators, run))


@pytest.mark.slow
def test_a_dry_run_goes_through_the_plan(
    machine: gpu_machine.Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "COMPILED", (1,))  # compiling takes most of the time
    monkeypatch.setattr("dcp_deploy.benchmarks.machine.roofline.CPU_SIDES", dict.fromkeys(("fp32", "bf16", "int8"), 64))
    file = tmp_path / "test_gpu_only.py"
    file.write_text(GPU_TEST)
    machine = replace(machine, tests=(str(file),))
    parts = [part for part in gpu.parts_named([]) if part.name not in ("batch 8", "batch 64")]
    gpu.run_plan(machine, tmp_path / "out", gpu.tiny_size(), 600.0, parts)
    record = read_json(tmp_path / "out" / "gpu.json")
    assert {part["state"] for part in record["parts"].values()} == {"done"}
    assert record["dry_run"] and record["missing"] == {} and "1 passed" in record["tests"]["summary"]
    measured = {(row["name"], row["batch"]) for row in record["latency"]}
    for model in ("teacher", "student"):
        others = "eager fp32", "torch.compile fp32", "ONNX Runtime CUDA fp16", "ours fp16, graph"
        assert measured >= {(f"{model}, {name}", 1) for name in others}
    assert record["differences"]["student"]["fp16"] > 0
    assert all(goal["met"] is not None for goal in record["goals"])
    ours = next(row for row in record["latency"] if (row["name"], row["batch"]) == (OURS, 32))
    assert ours["roofline"]["floor_ms"] * ours["roofline"]["of_floor"] == pytest.approx(ours["gpu_ms"])


def test_a_part_that_fails_or_lacks_time_leaves_the_others_their_results(
    machine: gpu_machine.Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found: list[dict[str, Any]] = []

    def fails(run: gpu.Run) -> None:
        run.record["missing"]["before"] = "kept"
        raise RuntimeError("no kernel")

    def reads(run: gpu.Run) -> None:
        found.append(read_json(tmp_path / "gpu.json"))

    parts = [gpu.Part("a", 0, fails), gpu.Part("b", 3600, fails), gpu.Part("c", 0, reads)]
    record = gpu.run_plan(machine, tmp_path, gpu.tiny_size(), 60.0, parts)
    assert [part["state"] for part in record["parts"].values()] == ["failed", "left out", "done"]
    assert record["parts"]["a"]["reason"] == "RuntimeError: no kernel" and "of 3600 s" in record["parts"]["b"]["reason"]
    assert list(found[0]["parts"]) == ["a", "b"] and found[0]["missing"] == {"before": "kept"}
    assert "pytest -m gpu" in capsys.readouterr().out


def test_tests_that_take_too_long_are_ended(
    machine: gpu_machine.Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "TESTS_SECONDS", 0.0)
    record = gpu.run_plan(machine, tmp_path, gpu.tiny_size(), 600.0, gpu.parts_named(["tests"]))
    assert record["parts"]["tests"]["state"] == "failed" and "took more than 0 s" in record["parts"]["tests"]["reason"]
    assert record["goals"][0]["met"] is None


def test_failing_tests_fail_their_part(machine: gpu_machine.Machine, tmp_path: Path) -> None:
    file = tmp_path / "test_that_fails.py"
    file.write_text(GPU_TEST.replace("pass", "assert False"))
    machine = replace(machine, tests=(str(file),))
    record = gpu.run_plan(machine, tmp_path, gpu.tiny_size(), 600.0, gpu.parts_named(["tests"]))
    part = record["parts"]["tests"]
    assert part["state"] == "failed" and "pytest ended with exit code 1: 1 failed" in part["reason"]
    assert record["goals"][0]["met"] is False


def test_the_tests_of_a_dry_run_exist(machine: gpu_machine.Machine) -> None:
    (file,) = machine.tests
    assert "@pytest.mark.gpu" in (Path(__file__).parents[3] / file).read_text(encoding="utf-8")


def test_goals_are_compared_with_what_was_measured() -> None:
    speed = {"speedup": {"value": 30.0}, "name": OURS}
    rows = [
        {**speed, "batch": 1, "gpu_ms": 0.29},
        {**speed, "batch": 32, "gpu_ms": 1.0, "roofline": {"of_floor": 3.0}},
        {**speed, "batch": 1, "gpu_ms": 9.0, "name": BASELINE},
    ]
    shares = [
        {"operator": "fir", "kernel": "fir_nhwc_wide_f16", "channels": 128, "share": 0.9},
        {"operator": "fir", "kernel": "fir_nhwc_wide_f16", "channels": 40, "share": 0.8},
        {"operator": "fir", "kernel": "fir_nhwc_narrow_f16", "channels": 128, "share": 0.1},
    ]
    tests = {"exit_code": 0, "summary": "3 passed"}
    goals = {goal.name: goal for goal in judged({"latency": rows, "kernels": shares, "tests": tests})}
    met = {name: goal.met for name, goal in goals.items() if goal.met is not None}
    assert met == {
        "pytest -m gpu": True, "student fp16 graph, batch 1": True, "the same against the eager teacher": True,
        "batch 32 over its roofline": False, "fir nhwc fp16, share of a copy": False,
    }  # fmt: skip
    assert goals["fir nhwc fp16, share of a copy"].measured == "80 %"
    assert goals["rgb nhwc fp16, share of a copy"].measured == "not run"
    assert "missed" in goals_table(list(goals.values()))
    assert "| fir, NHWC | 80% | 90% |" in speed_table(shares)


def test_an_unknown_part_is_named() -> None:
    with pytest.raises(UsageError, match="no part 'batch 2'"):
        gpu.parts_named(["kernels", "batch 2"])
    assert [part.name for part in gpu.parts_named(["kernels", "images"])] == ["images", "kernels"]


def test_without_a_gpu_only_a_dry_run_is_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingCapabilityError, match="needs an NVIDIA GPU"):
        gpu_machine.gpu_machine()


def test_a_dry_run_needs_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tests.kernels.host", None)
    with pytest.raises(MissingCapabilityError, match="needs the host emulator"), gpu_machine.emulated_machine():
        pass


@pytest.mark.gpu
def test_a_small_pair_and_the_kernels_are_measured(tmp_path: Path) -> None:
    parts = gpu.parts_named(["images", "batch 1", "kernels"])
    record = gpu.run_plan(gpu_machine.gpu_machine(), tmp_path, gpu.tiny_size(), 120.0, parts)
    assert {part["state"] for part in record["parts"].values()} == {"done"}
    assert all(row["time_ms"] > 0 and row["copy_time_ms"] > 0 for row in record["kernels"])
