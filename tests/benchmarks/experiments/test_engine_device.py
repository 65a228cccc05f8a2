from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from dcp_deploy.benchmarks.experiments import engine_device
from dcp_deploy.generators import Generator


def test_without_a_gpu_every_attempt_has_a_result(
    small_generator: Generator, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the extra 'rtx' is not installed")
    if torch.cuda.is_available():
        pytest.skip("tests a machine without a GPU")
    monkeypatch.setattr(engine_device, "TARGETS", ("sm89",))
    monkeypatch.setattr(engine_device, "NETWORK", small_generator.config)
    monkeypatch.setattr(engine_device, "export_onnx", lambda generator, path, image: shutil.copy(exported, path))
    found = {attempt["attempt"]: attempt["result"] for attempt in engine_device.attempts(tmp_path)}
    assert found["build for None, this GPU"].startswith("no: this machine has no GPU")
    assert found["build for sm89"].startswith("yes: ")
    assert "needs an NVIDIA GPU" in found["load_runner sm89"]
    assert found.keys() == {
        "build for None, this GPU",
        "build and run for CURRENT",
        "build for sm89",
        "load and run sm89",
        "load_runner sm89",
    }
