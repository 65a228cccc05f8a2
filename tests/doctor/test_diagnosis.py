from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from typer.main import get_command

from dcp_deploy.cli.app import app
from dcp_deploy.doctor import diagnosis as doctor
from dcp_deploy.doctor.diagnosis import Finding, diagnose


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
    assert {finding.name for finding in diagnosis.findings if finding.required} == set(doctor.REQUIRED)
    json.dumps(diagnosis.to_dict(), allow_nan=False)


def test_it_imports_nothing_but_the_standard_library() -> None:
    script = (
        "import sys; from dcp_deploy.doctor import diagnose; diagnose().verbs\n"
        "heavy = {'torch', 'numpy', 'onnxruntime', 'tensorrt_rtx', 'pydantic', 'rich', 'psutil', 'httpx'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_verb_imports_nothing_that_it_looks_for() -> None:
    script = (
        "import sys; from dcp_deploy.cli import app\n"
        "try: app(['doctor', '--json'])\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'onnxscript', 'tensorrt_rtx', 'tensorrt', 'safetensors', 'scipy',\n"
        "         'torchmetrics', 'matplotlib', 'tritonclient', 'cuda'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_it_answers_where_the_command_line_cannot_start() -> None:
    script = """
import runpy, sys
class Bare:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in {*sys.stdlib_module_names, "dcp_deploy"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Bare())
runpy.run_module("dcp_deploy.doctor", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 4, done.stderr  # nothing that it asks for can be found
    assert "missing  torch: not installed -> pip install torch" in done.stdout.splitlines()
    assert "missing  dcp-deploy build: needs torch, base packages, ONNX Runtime" in done.stdout.splitlines()


def test_the_base_packages_are_those_that_the_installation_names(monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    named = {line.split(">=")[0] for line in project["dependencies"]}
    assert set(doctor.required_packages()) == named - {"torch"}
    pretend_versions(monkeypatch, httpx=None, rich="13.6.0")
    base = found("base packages")
    assert base.blocks and base.found == "rich is 13.6.0, older than 13.7; httpx is not installed"
    assert base.fix == "pip install 'rich>=13.7' 'httpx>=0.27'"


def test_what_is_there_needs_no_fix() -> None:
    assert [finding.name for finding in diagnose().findings if finding.verdict == "ok" and finding.fix] == []
    assert [finding.name for finding in diagnose().findings if finding.verdict != "ok" and not finding.fix] == []


def test_a_triton_server_is_found_where_serve_looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(doctor.TRITON_VARIABLE, raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    pretend_versions(monkeypatch, nvidia_pytriton=None)
    assert found("Triton server").verdict == "missing" and "nvidia-pytriton onnxruntime" in found("Triton server").fix
    pretend_versions(monkeypatch, nvidia_pytriton="0.7.0", numpy="2.4.6")
    assert found("Triton server").found == "nvidia-pytriton 0.7.0 needs numpy 1, not 2.4.6"
    pretend_versions(monkeypatch, nvidia_pytriton="0.7.0", numpy="1.26.4")
    assert found("Triton server").verdict == "ok"
    monkeypatch.setenv(doctor.TRITON_VARIABLE, str(tmp_path))
    assert found("Triton server").verdict == "missing" and str(tmp_path) in found("Triton server").found
    (tmp_path / "lib/python3.11/site-packages/nvidia_pytriton-0.7.0.dist-info").mkdir(parents=True)
    assert found("Triton server").verdict == "ok"


def test_the_environment_variable_is_the_one_that_serve_reads() -> None:
    (server,) = [p for p in get_command(app).commands["serve"].params if p.name == "server"]  # type: ignore[attr-defined]
    assert server.envvar == doctor.TRITON_VARIABLE


def test_a_missing_required_package_is_unhealthy_and_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_versions(monkeypatch, onnxruntime=None, onnxruntime_gpu=None)
    assert found("ONNX Runtime").blocks
    assert "dcp-deploy[cpu]" in found("ONNX Runtime").fix
    assert not diagnose().healthy


def test_a_missing_optional_package_leaves_the_machine_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_versions(monkeypatch, tensorrt_rtx=None)
    assert found("TensorRT-RTX").verdict == "missing"
    assert diagnose().healthy


def test_openvino_is_an_extra_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_versions(monkeypatch, openvino=None)
    diagnosis = doctor.diagnose()
    assert "dcp-deploy[openvino]" in found("OpenVINO").fix
    assert diagnosis.healthy
    assert next(one for one in diagnosis.verbs if one.verb == "bench").words == "no backend openvino"


def test_without_a_cpp_compiler_the_winograd_backends_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    diagnosis = diagnose()
    assert found("C++ compiler").verdict == "missing" and "CXX" in found("C++ compiler").fix
    assert diagnosis.healthy
    words = next(one for one in diagnosis.verbs if one.verb == "eval").words
    assert "no backends onnxruntime-winograd and openvino-winograd" in words


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
    monkeypatch.setattr(doctor, "_torch", broken)
    assert "no /proc here" in found("memory").found
    assert found("torch").blocks and not found("memory").blocks
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
