from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from dcp_deploy import doctor
from dcp_deploy.doctor import Finding, diagnose


def found(name: str) -> Finding:
    (finding,) = [finding for finding in diagnose().findings if finding.name == name]
    return finding


def pretend_versions(monkeypatch: pytest.MonkeyPatch, **versions: str | None) -> None:
    """Let packages look installed in these versions, or not at all (None)."""
    real = doctor.version
    fake = {name.replace("_", "-"): value for name, value in versions.items()}
    monkeypatch.setattr(doctor, "version", lambda package: fake[package] if package in fake else real(package))


def pretend_nvidia_smi(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(tool) if name == "nvidia-smi" else None)


def test_this_environment_can_run_the_tests_so_it_is_healthy() -> None:
    diagnosis = diagnose()
    assert diagnosis.healthy
    assert {finding.name for finding in diagnosis.findings if finding.required} == {
        "Python", "torch", "base packages", "ONNX Runtime",
    }  # fmt: skip
    json.dumps(diagnosis.to_dict(), allow_nan=False)


def test_it_imports_nothing_but_the_standard_library() -> None:
    script = (
        "import sys; from dcp_deploy.doctor import diagnose; diagnose()\n"
        "heavy = {'torch', 'numpy', 'onnxruntime', 'tensorrt_rtx', 'pydantic', 'rich', 'psutil', 'httpx'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_missing_required_package_is_unhealthy_and_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_versions(monkeypatch, onnxruntime=None, onnxruntime_gpu=None)
    assert found("ONNX Runtime").blocks
    assert "dcp-deploy[cpu]" in found("ONNX Runtime").fix
    assert not diagnose().healthy


def test_a_missing_optional_package_leaves_the_machine_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_versions(monkeypatch, tensorrt_rtx=None)
    assert found("TensorRT-RTX").verdict == "missing"
    assert diagnose().healthy


def test_two_onnx_runtimes_at_once_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_versions(monkeypatch, onnxruntime="1.32.0", onnxruntime_gpu="1.32.0")
    assert found("ONNX Runtime").verdict == "limited"
    assert "uninstall" in found("ONNX Runtime").fix


def test_the_tensorrt_series_with_broken_plugins_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_versions(monkeypatch, tensorrt="10.14.1.48")
    assert found("TensorRT").verdict == "limited"


def test_a_package_whose_files_are_gone_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda package: "1.0")
    assert doctor.version("no-such-package") is None


def test_a_gpu_is_described_by_its_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend_nvidia_smi(monkeypatch, tmp_path, "echo 'NVIDIA L4, 8.9, 23034 MiB, 570.1'")
    pretend_versions(monkeypatch, torch="2.13.0+cu130")
    gpu = found("NVIDIA GPU")
    assert (gpu.verdict, gpu.found) == ("ok", "NVIDIA L4, sm89, 23034 MiB, driver 570.1")


def test_a_gpu_that_torch_cannot_use_is_limited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend_nvidia_smi(monkeypatch, tmp_path, "echo 'NVIDIA L4, 8.9, 23034 MiB, 570.1'")
    pretend_versions(monkeypatch, torch="2.13.0+cpu")
    assert found("NVIDIA GPU").verdict == "limited"


def test_a_driver_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend_nvidia_smi(monkeypatch, tmp_path, "echo 'Failed to initialize NVML'; exit 9")
    gpu = found("NVIDIA GPU")
    assert gpu.verdict == "missing" and "Failed to initialize NVML" in gpu.found


def test_a_probe_that_breaks_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Finding:
        raise OSError("no /proc here")

    monkeypatch.setattr(doctor, "_memory", broken)
    assert "no /proc here" in found("memory").found
    assert found("disk").verdict == "ok"


def test_little_space_or_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "usable_memory", lambda: 2_000_000_000)
    monkeypatch.setattr(doctor, "free_space", lambda folder: 1_000)
    assert found("memory").verdict == found("disk").verdict == "limited"


def test_free_space_of_a_folder_that_does_not_exist_yet_is_its_parent_s(tmp_path: Path) -> None:
    assert doctor.free_space(tmp_path / "a" / "b") == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.2)


def test_nvrtc_alone_compiles_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    pretend_versions(monkeypatch, nvidia_cuda_nvrtc="13.0.88", cuda_bindings="13.0.3")
    assert found("CUDA compiler").found == "NVRTC 13.0.88"
    pretend_versions(monkeypatch, nvidia_cuda_nvrtc=None)
    assert found("CUDA compiler").verdict == "missing"
    assert "dcp-deploy[kernels]" in found("CUDA compiler").fix
