"""The probes of the machine: what they find, and the fix that they name."""

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
from dcp_deploy.doctor import diagnosis
from dcp_deploy.doctor.diagnosis import Finding, diagnose


def found(name: str) -> Finding:
    (finding,) = [finding for finding in diagnose().findings if finding.name == name]
    return finding


def pretend_versions(monkeypatch: pytest.MonkeyPatch, **versions: str | None) -> None:
    """Make packages look installed in these versions; None: not installed."""
    real = diagnosis.version
    fake = {name.replace("_", "-"): value for name, value in versions.items()}
    monkeypatch.setattr(diagnosis, "version", lambda package: fake[package] if package in fake else real(package))


def pretend_nvidia_smi(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(tool) if name == "nvidia-smi" else None)


def run_script(script: str, expected: int = 0) -> list[str]:
    """Run Python code in a process of its own and return the lines that it prints."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == expected, done.stderr
    return done.stdout.splitlines()


def test_the_environment_of_the_tests_is_healthy() -> None:
    here = diagnose()
    assert here.healthy
    assert {finding.name for finding in here.findings if finding.required} == set(diagnosis.REQUIRED)
    json.dumps(here.to_dict(), allow_nan=False)


def test_the_probes_import_only_the_standard_library() -> None:
    run_script(
        "import sys; from dcp_deploy.doctor.diagnosis import diagnose; diagnose().verbs\n"
        "heavy = {'torch', 'numpy', 'onnxruntime', 'tensorrt_rtx', 'pydantic', 'rich', 'psutil', 'httpx'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy"
    )


def test_the_verb_imports_none_of_the_packages_that_it_looks_for() -> None:
    run_script(
        "import sys; from dcp_deploy.cli.app import app\n"
        "try: app(['doctor', '--json'])\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'onnxscript', 'tensorrt_rtx', 'tensorrt', 'safetensors', 'scipy',\n"
        "         'torchmetrics', 'matplotlib', 'tritonclient', 'cuda'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )


def test_the_module_runs_where_only_the_standard_library_can_be_imported() -> None:
    lines = run_script(
        """
import runpy, sys
class Bare:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in {*sys.stdlib_module_names, "dcp_deploy"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Bare())
runpy.run_module("dcp_deploy.doctor", run_name="__main__")
""",
        expected=4,  # every required package is missing
    )
    assert "missing  torch: not installed -> pip install torch" in lines
    assert "missing  dcp-deploy build: needs torch, base packages, ONNX Runtime" in lines


def test_the_base_packages_are_the_dependencies_of_the_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    named = {line.split(">=")[0] for line in project["dependencies"]}
    assert set(diagnosis.required_packages()) == named - {"torch"}
    pretend_versions(monkeypatch, httpx=None, rich="13.6.0")
    base = found("base packages")
    assert base.blocks and base.found == "rich is 13.6.0, older than 13.7; httpx is not installed"
    assert base.fix == "pip install 'rich>=13.7' 'httpx>=0.27'"


def test_available_capabilities_have_no_fix_and_all_others_have_one() -> None:
    assert [finding.name for finding in diagnose().findings if (finding.verdict == "ok") == bool(finding.fix)] == []


def test_a_triton_server_is_found_where_serve_looks_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(diagnosis.TRITON_VARIABLE, raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    pretend_versions(monkeypatch, nvidia_pytriton=None)
    assert found("Triton server").verdict == "missing" and "nvidia-pytriton onnxruntime" in found("Triton server").fix
    pretend_versions(monkeypatch, nvidia_pytriton="0.7.0", numpy="2.4.6")
    assert found("Triton server").found == "nvidia-pytriton 0.7.0 needs numpy 1, not 2.4.6"
    pretend_versions(monkeypatch, nvidia_pytriton="0.7.0", numpy="1.26.4")
    assert found("Triton server").verdict == "ok"
    monkeypatch.setenv(diagnosis.TRITON_VARIABLE, str(tmp_path))
    assert found("Triton server").verdict == "missing" and str(tmp_path) in found("Triton server").found
    (tmp_path / "lib/python3.11/site-packages/nvidia_pytriton-0.7.0.dist-info").mkdir(parents=True)
    assert found("Triton server").verdict == "ok"


def test_the_environment_variable_is_the_one_that_serve_reads() -> None:
    (server,) = [p for p in get_command(app).commands["serve"].params if p.name == "server"]  # type: ignore[attr-defined]
    assert server.envvar == diagnosis.TRITON_VARIABLE


def test_a_missing_required_package_is_unhealthy_and_has_a_fix(monkeypatch: pytest.MonkeyPatch) -> None:
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
    here = diagnose()
    assert "dcp-deploy[openvino]" in found("OpenVINO").fix
    assert here.healthy
    assert next(one for one in here.verbs if one.verb == "bench").words == "no backend openvino"


def test_the_winograd_backends_need_a_cpp_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    here = diagnose()
    assert found("C++ compiler").verdict == "missing" and "CXX" in found("C++ compiler").fix
    assert here.healthy
    words = next(one for one in here.verbs if one.verb == "eval").words
    assert "no backends onnxruntime-winograd and openvino-winograd" in words


def test_two_onnx_runtimes_at_once_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_versions(monkeypatch, onnxruntime="1.32.0", onnxruntime_gpu="1.32.0")
    assert found("ONNX Runtime").verdict == "limited"
    assert "uninstall" in found("ONNX Runtime").fix


def test_the_tensorrt_series_with_broken_plugins_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_versions(monkeypatch, tensorrt="10.14.1.48")
    assert found("TensorRT").verdict == "limited"


def test_a_package_without_its_module_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda package: "1.0")
    assert diagnosis.version("no-such-package") is None


def test_a_gpu_is_described_by_its_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend_nvidia_smi(monkeypatch, tmp_path, "echo 'NVIDIA L4, 8.9, 23034 MiB, 570.1'")
    pretend_versions(monkeypatch, torch="2.13.0+cu130")
    gpu = found("NVIDIA GPU")
    assert (gpu.verdict, gpu.found) == ("ok", "NVIDIA L4, sm89, 23034 MiB, driver 570.1")


def test_a_gpu_that_torch_cannot_use_is_limited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend_nvidia_smi(monkeypatch, tmp_path, "echo 'NVIDIA L4, 8.9, 23034 MiB, 570.1'")
    pretend_versions(monkeypatch, torch="2.13.0+cpu")
    assert found("NVIDIA GPU").verdict == "limited"


def test_the_message_of_a_failing_driver_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend_nvidia_smi(monkeypatch, tmp_path, "echo 'Failed to initialize NVML'; exit 9")
    gpu = found("NVIDIA GPU")
    assert gpu.verdict == "missing" and "Failed to initialize NVML" in gpu.found


def test_a_failing_probe_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Finding:
        raise OSError("no /proc here")

    monkeypatch.setattr(diagnosis, "_memory", broken)
    monkeypatch.setattr(diagnosis, "_torch", broken)
    assert "no /proc here" in found("memory").found
    assert found("torch").blocks and not found("memory").blocks
    assert found("disk").verdict == "ok"


def test_little_space_or_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "usable_memory", lambda: 2_000_000_000)
    monkeypatch.setattr(diagnosis, "free_space", lambda folder: 1_000)
    assert found("memory").verdict == found("disk").verdict == "limited"


def test_free_space_of_a_missing_folder_is_that_of_its_parent(tmp_path: Path) -> None:
    assert diagnosis.free_space(tmp_path / "a" / "b") == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.2)


def test_nvrtc_without_nvcc_compiles_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    pretend_versions(monkeypatch, nvidia_cuda_nvrtc="13.0.88", cuda_bindings="13.0.3")
    assert found("CUDA compiler").found == "NVRTC 13.0.88"
    pretend_versions(monkeypatch, nvidia_cuda_nvrtc=None)
    assert found("CUDA compiler").verdict == "missing"
    assert "dcp-deploy[kernels]" in found("CUDA compiler").fix
