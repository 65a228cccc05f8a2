"""Candidates in their own processes: the protocol, and one real process."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import asdict

import pytest
import torch

from dcp_deploy.benchmarks import benchmark, isolated, open_matrix, plan_matrix
from dcp_deploy.benchmarks.candidates.isolation import Worker, error_of
from dcp_deploy.benchmarks.candidates.matrix import Spec
from dcp_deploy.benchmarks.candidates.worker import peak_host_bytes, serve, timed_call
from dcp_deploy.checkpoints import save_generator
from dcp_deploy.errors import InputError, MissingCapabilityError
from dcp_deploy.generators import Generator, GeneratorConfig


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("isolation") / "s.safetensors"
    save_generator(Generator(GeneratorConfig(resolution=8, z_dim=6, w_dim=6, mapping_layers=1, widths=(3,) * 4)), path)
    return path


def answers_to(spec, *requests):
    """Return the answers of a worker, without another process."""
    lines, output = [{"spec": asdict(spec)}, *requests], io.StringIO()
    serve(io.StringIO("".join(f"{json.dumps(line)}\n" for line in lines)), output)
    return [json.loads(line) for line in output.getvalue().splitlines()]


def test_a_worker_opens_calls_and_reports_its_memory(checkpoint):
    opened, call, memory = answers_to(Spec("student", str(checkpoint), "torch", batch=2), "call", "memory")
    assert opened["opened"]["precision"] == "fp32" and opened["opened"]["work"]["operations"] > 0
    assert call["shape"] == [2, 3, 8, 8] and call["ms"] > 0
    assert memory["device_bytes"] is None
    assert memory["host_bytes"] is None or memory["host_bytes"] > 2**20  # None: a system without /proc


def test_a_worker_that_cannot_open_reports_the_error(tmp_path):
    (answer,) = answers_to(Spec("student", str(tmp_path / "none"), "torch"), "call")
    assert answer["error"]["exit_code"] == 3
    error = error_of(answer["error"])
    assert isinstance(error, InputError) and "no such file" in error.message


def test_a_call_is_timed_by_the_clock():
    ticks = iter([1.0, 1.25])
    assert timed_call(lambda: None, clock=lambda: next(ticks)) == {"ms": 250.0, "shape": []}


def test_the_peak_is_read_from_the_kernels_record(tmp_path):
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmPeak:\t 9999 kB\nVmHWM:\t  2048 kB\n")
    assert peak_host_bytes(status) == 2 * 2**20
    assert peak_host_bytes(tmp_path / "none") is None


def test_the_error_of_a_process_that_dies_names_its_exit_code():
    worker = Worker(Spec("student", "s", "torch"), [sys.executable, "-c", "raise SystemExit(9)"])
    with pytest.raises(MissingCapabilityError, match="student on torch ended with 9"):
        worker.ask("call")
    worker.close()
    assert worker.process.returncode == 9


def test_a_real_process_is_timed(checkpoint):
    specs, _ = plan_matrix({"student": [checkpoint]}, threads=1)
    with isolated() as open_one:
        candidates, _ = open_matrix(specs, open_one, tolerant=False)
        report = benchmark(
            candidates, baseline="student, torch eager", warmup_seconds=0, min_rounds=3, min_seconds=0, pause_seconds=0
        )
    (row,) = report.rows
    assert row.summary.count == 3 and row.cold_start is not None and row.cold_start.load_ms > 0
    assert "cold start s" in report.to_markdown()
