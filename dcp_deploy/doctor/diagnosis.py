"""What works on this machine, and how to mend what does not.

Only the standard library, every probe guarded, nothing heavy imported: it answers on a broken installation too, as
``python -m dcp_deploy.doctor`` even where the command line itself cannot start.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from ..files import free_space
from .verbs import VerbStatus, Verdict, abilities

_MODULES = {
    "cuda-bindings": "cuda", "nvidia-cuda-nvrtc": "nvidia", "nvidia-pytriton": "pytriton",
    "onnxruntime-gpu": "onnxruntime", "Pillow": "PIL",
}  # fmt: skip
TRITON_VARIABLE = "DCP_DEPLOY_TRITON"  # as of serve --server

CPP_COMPILERS = ("g++", "c++", "clang++")  # as of kernels/cpu/library.py

REQUIRED = ("Python", "torch", "base packages", "ONNX Runtime")
MEMORY_NEEDED = 4_000_000_000  # what the demo may use
DISK_NEEDED = 1_000_000_000  # a demo's run directory, with room for its temporary files


@dataclass(frozen=True)
class Finding:
    """One capability: what was found, what it is for, and what to do when it is not there."""

    name: str
    verdict: Verdict
    found: str
    purpose: str
    fix: str = ""
    required: bool = False

    @property
    def blocks(self) -> bool:
        """True when nothing works without it and it is not there."""
        return self.required and self.verdict == "missing"


@dataclass(frozen=True)
class Diagnosis:
    """All findings, whether ``build --dataset demo`` can run here, and what each verb can do."""

    findings: tuple[Finding, ...]

    @property
    def verbs(self) -> tuple[VerbStatus, ...]:
        """What each verb can do here."""
        return abilities({finding.name: finding.verdict for finding in self.findings})

    @property
    def healthy(self) -> bool:
        """True when everything that is required is there."""
        return not any(finding.blocks for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "healthy": self.healthy,
            "findings": [asdict(finding) for finding in self.findings],
            "verbs": [asdict(ability) for ability in self.verbs],
        }

    def lines(self) -> list[str]:
        """For a terminal without anything installed."""
        found = [
            f"{one.verdict:<8} {one.name}: {one.found}" + (f" -> {one.fix}" if one.fix else "") for one in self.findings
        ]
        return [
            *found,
            *(
                f"{one.verdict:<8} dcp-deploy {one.verb}" + (f": {one.words}" if one.words else "")
                for one in self.verbs
            ),
        ]


def diagnose(directory: Path | None = None) -> Diagnosis:
    """Probe this machine; ``directory`` is where results would be written (the working directory when not given).

    Never raises: a probe that fails says so in its finding.
    """
    folder = Path() if directory is None else directory
    probes: list[tuple[str, Callable[[], Finding]]] = [
        ("Python", _python),
        ("torch", _torch),
        ("base packages", _base_packages),
        ("demo teacher", _demo_teacher),
        ("ONNX Runtime", _onnxruntime),
        ("OpenVINO", _openvino),
        ("TensorRT-RTX", _tensorrt_rtx),
        ("TensorRT", _tensorrt),
        ("NVIDIA GPU", _gpu),
        ("C++ compiler", _cpp_compiler),
        ("CUDA compiler", _cuda_compiler),
        ("Triton server", _triton_server),
        ("Triton client", _triton_client),
        ("published features", _published_features),
        ("memory", _memory),
        ("disk", lambda: _disk(folder)),
    ]
    return Diagnosis(tuple(_guarded(name, probe) for name, probe in probes))


def _guarded(name: str, probe: Callable[[], Finding]) -> Finding:
    try:
        return probe()
    except Exception as error:  # a machine nobody has seen: the other findings must still be shown
        found = f"the probe failed: {type(error).__name__}: {error}"
        return Finding(name, "missing", found, "", "Report this.", name in REQUIRED)


def version(package: str) -> str | None:
    """Installed version of a distribution whose module can be found; None otherwise. Imports nothing."""
    try:
        found = metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
    module = _MODULES.get(package, package.replace("-", "_"))
    try:
        return found if importlib.util.find_spec(module) is not None else None
    except ImportError:
        return None


# ---- software ----


def _python() -> Finding:
    good = sys.version_info >= (3, 11)
    found = f"{platform.python_version()} ({sys.executable})"
    if not good:
        return Finding("Python", "missing", found, "everything", "Install Python 3.11 or later.", True)
    return Finding("Python", "ok", found, "everything", required=True)


def _torch() -> Finding:
    found = version("torch")
    purpose = "scoring, pruning, distilling, exporting"
    if found is None:
        return Finding("torch", "missing", "not installed", purpose, "pip install torch", True)
    return Finding("torch", "ok", f"{found}{' (no CUDA)' if '+cpu' in found else ''}", purpose, required=True)


def _base_packages() -> Finding:
    needed = required_packages()
    purpose = "files, tables, pictures, the report, downloads"
    wrong = {}
    for package, least in needed.items():
        found = version(package)
        if found is None:
            wrong[package] = f"{package} is not installed"
        elif _numbers(found) < _numbers(least):
            wrong[package] = f"{package} is {found}, older than {least}"
    if wrong:
        fix = f"pip install {' '.join(repr(f'{package}>={needed[package]}') for package in wrong)}"
        return Finding("base packages", "missing", "; ".join(wrong.values()), purpose, fix, True)
    return Finding("base packages", "ok", f"{len(needed)} of {len(needed)}", purpose, required=True)


def required_packages() -> dict[str, str]:
    """{package: oldest version} of everything that an installation of dcp-deploy brings, but for torch."""
    lines = [line for line in metadata.requires("dcp-deploy") or () if "extra ==" not in line]
    found = [(re.split(r"\W*>=", line)[0], line.split(">=")[1]) for line in lines]
    return {package: least for package, least in found if package != "torch"}


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version.split("+")[0])]


def _demo_teacher() -> Finding:
    asset = resources.files("dcp_deploy") / "assets" / "demo_teacher.safetensors"
    purpose = "build --dataset demo"
    if not asset.is_file():
        return Finding(
            "demo teacher",
            "missing",
            "not in this installation",
            purpose,
            "Reinstall dcp-deploy, or give build a --teacher FILE.",
        )
    return Finding("demo teacher", "ok", f"{Path(str(asset)).stat().st_size / 1e6:.1f} MB", purpose)


def _onnxruntime() -> Finding:
    cpu, gpu = version("onnxruntime"), version("onnxruntime-gpu")
    purpose = "running, verifying and measuring exported models; build needs it"
    if cpu and gpu:
        return Finding(
            "ONNX Runtime",
            "limited",
            f"onnxruntime {cpu} and onnxruntime-gpu {gpu}",
            purpose,
            "They overwrite each other: pip uninstall onnxruntime onnxruntime-gpu, then install one.",
            True,
        )
    if not cpu and not gpu:
        return Finding("ONNX Runtime", "missing", "not installed", purpose, "pip install 'dcp-deploy[cpu]'", True)
    return Finding("ONNX Runtime", "ok", f"{cpu} (CPU)" if cpu else f"{gpu} (CUDA)", purpose, required=True)


def _openvino() -> Finding:
    found, purpose = version("openvino"), "running exported models faster on a CPU"
    if found is None:
        return Finding("OpenVINO", "missing", "not installed", purpose, "pip install 'dcp-deploy[openvino]'")
    return Finding("OpenVINO", "ok", found, purpose)


def _tensorrt_rtx() -> Finding:
    found, purpose = version("tensorrt-rtx"), "building engines for other people's GPUs, without one"
    if found is None:
        return Finding("TensorRT-RTX", "missing", "not installed", purpose, "pip install 'dcp-deploy[rtx]'")
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return Finding(
            "TensorRT-RTX",
            "limited",
            f"{found} on {platform.system()} {platform.machine()}",
            purpose,
            "Only x86-64 Linux was tried.",
        )
    return Finding("TensorRT-RTX", "ok", found, purpose)


def _tensorrt() -> Finding:
    found, purpose = version("tensorrt"), "engines for the GPU present"
    if found is None:
        return Finding("TensorRT", "missing", "not installed", purpose, "pip install 'dcp-deploy[gpu]'")
    if found.startswith("10.14."):  # its plugins are broken; Torch-TensorRT refuses it too
        return Finding(
            "TensorRT", "limited", f"{found}, a series with broken plugins", purpose, "pip install 'tensorrt!=10.14.*'"
        )
    return Finding("TensorRT", "ok", found, purpose)


def _triton_server() -> Finding:
    purpose = "serve"
    fix = (
        "python3 -m venv triton && triton/bin/pip install nvidia-pytriton onnxruntime, "
        f"then serve --server triton, or {TRITON_VARIABLE}=triton"
    )
    named = os.environ.get(TRITON_VARIABLE)
    if named:
        place = Path(named)
        if place.is_file() or any(place.glob("lib/python*/site-packages/nvidia_pytriton-*.dist-info")):
            return Finding("Triton server", "ok", f"{place} ({TRITON_VARIABLE})", purpose)
        found = f"{place} ({TRITON_VARIABLE}) is no tritonserver program and has no nvidia-pytriton"
        return Finding("Triton server", "missing", found, purpose, fix)
    full = shutil.which("tritonserver")
    if full is not None:
        return Finding("Triton server", "ok", full, purpose)
    bundled, numpy = version("nvidia-pytriton"), version("numpy") or "none"
    if bundled is None:
        return Finding("Triton server", "missing", "neither tritonserver nor nvidia-pytriton found", purpose, fix)
    if not numpy.startswith("1."):
        return Finding(
            "Triton server", "missing", f"nvidia-pytriton {bundled} needs numpy 1, not {numpy}", purpose, fix
        )
    return Finding("Triton server", "ok", f"of nvidia-pytriton {bundled}", purpose)


def _triton_client() -> Finding:
    found, purpose = version("tritonclient"), "verify BUNDLE http://HOST:PORT"
    if found is None:
        return Finding("Triton client", "missing", "not installed", purpose, "pip install 'dcp-deploy[serve]'")
    return Finding("Triton client", "ok", found, purpose)


def _published_features() -> Finding:
    name, purpose = "published features", "eval --data, distill --data, --lpips"
    found = {package: version(package) for package in ("torch-fidelity", "lpips")}
    lacking = [package for package, number in found.items() if number is None]
    if lacking:
        return Finding(name, "missing", f"without {', '.join(lacking)}", purpose, "pip install 'dcp-deploy[metrics]'")
    return Finding(name, "ok", ", ".join(f"{package} {number}" for package, number in found.items()), purpose)


# ---- hardware ----


def _gpu() -> Finding:
    purpose = "fast scoring and distilling, running engines"
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Finding(
            "NVIDIA GPU",
            "missing",
            "no driver (nvidia-smi not found)",
            purpose,
            "None needed for the demo. With a GPU: install its driver.",
        )
    query = [tool, "--query-gpu=name,compute_cap,memory.total,driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
    if answer.returncode != 0 or not answer.stdout.strip():
        return Finding(
            "NVIDIA GPU",
            "missing",
            (answer.stdout + answer.stderr).strip() or "none listed",
            purpose,
            "Check the driver with nvidia-smi.",
        )
    name, capability, memory, driver = (part.strip() for part in answer.stdout.splitlines()[0].split(","))
    found = f"{name}, sm{capability.replace('.', '')}, {memory}, driver {driver}"
    if "+cpu" in (version("torch") or ""):
        return Finding(
            "NVIDIA GPU", "limited", f"{found}; torch cannot use it", purpose, "Install a CUDA build of torch."
        )
    return Finding("NVIDIA GPU", "ok", found, purpose)


def _cuda_compiler() -> Finding:
    purpose = "compiling CUDA kernels"
    nvcc, nvrtc = shutil.which("nvcc"), version("nvidia-cuda-nvrtc")
    if nvrtc and version("cuda-bindings"):
        return Finding("CUDA compiler", "ok", f"NVRTC {nvrtc}", purpose)
    if nvcc is None:
        return Finding(
            "CUDA compiler",
            "missing",
            "neither NVRTC nor nvcc found",
            purpose,
            "Only for our kernels in torch on a GPU: pip install 'dcp-deploy[kernels]'",
        )
    lines = subprocess.run([nvcc, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    release = next((line.strip() for line in lines.splitlines() if "release" in line), "version unknown")
    return Finding("CUDA compiler", "ok", f"{nvcc}: {release}", purpose)


def _cpp_compiler() -> Finding:
    purpose = "our CPU operators and torch.compile, which are compiled on first use"
    names = [os.environ.get("CXX", ""), *CPP_COMPILERS]
    compiler = next((found for name in names if name and (found := shutil.which(name))), None)
    if compiler is None:
        return Finding("C++ compiler", "missing", "none found", purpose, "Install g++ or clang++, or let CXX name one.")
    lines = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    return Finding("C++ compiler", "ok", f"{compiler}: {lines.splitlines()[0]}", purpose)


def _memory() -> Finding:
    usable = usable_memory()
    found = f"{usable / 1e9:.1f} GB usable, {len(os.sched_getaffinity(0))} cores"
    if usable < MEMORY_NEEDED:
        return Finding("memory", "limited", found, "distilling", f"The demo wants {MEMORY_NEEDED / 1e9:.0f} GB.")
    return Finding("memory", "ok", found, "distilling")


def usable_memory() -> int:
    """Bytes this process could get: what the kernel says is available, or a container's limit if that is lower."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_available(), *_container_limit()]
    return min(limits)


def _available() -> Iterable[int]:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _container_limit() -> Iterable[int]:
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        path = Path(file)
        if path.is_file():
            text = path.read_text(encoding="ascii").strip()
            if text.isdecimal():
                yield int(text)


def _disk(folder: Path) -> Finding:
    free = free_space(folder)
    found = f"{free / 1e9:.1f} GB free in {folder.resolve()}"
    if free < DISK_NEEDED:
        return Finding("disk", "limited", found, "run directories", "Free some space, or give build another --out.")
    return Finding("disk", "ok", found, "run directories")
