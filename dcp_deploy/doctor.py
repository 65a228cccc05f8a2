"""What works on this machine, and how to mend what does not.

Only the standard library, every probe guarded, nothing heavy imported: it answers on a broken installation too.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any, Literal

Verdict = Literal["ok", "limited", "missing"]

BASE_PACKAGES = (
    "numpy", "safetensors", "onnx", "onnxscript", "rich", "pydantic", "jinja2", "matplotlib", "pillow", "httpx",
    "filelock", "platformdirs",
)  # fmt: skip
_MODULES = {
    "cuda-bindings": "cuda", "nvidia-cuda-nvrtc": "nvidia", "onnxruntime-gpu": "onnxruntime", "pillow": "PIL",
}  # fmt: skip

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
    """All findings, and whether ``build --dataset demo`` can run here."""

    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """True when everything that is required is there."""
        return not any(finding.blocks for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"healthy": self.healthy, "findings": [asdict(finding) for finding in self.findings]}


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
        ("TensorRT-RTX", _tensorrt_rtx),
        ("TensorRT", _tensorrt),
        ("NVIDIA GPU", _gpu),
        ("CUDA compiler", _cuda_compiler),
        ("memory", _memory),
        ("disk", lambda: _disk(folder)),
    ]
    return Diagnosis(tuple(_guarded(name, probe) for name, probe in probes))


def _guarded(name: str, probe: Callable[[], Finding]) -> Finding:
    try:
        return probe()
    except Exception as error:  # a machine nobody has seen: the other findings must still be shown
        return Finding(name, "missing", f"the probe failed: {type(error).__name__}: {error}", "", "Report this.")


def version(package: str) -> str | None:
    """Installed version of a distribution whose module can be found; None otherwise. Imports nothing."""
    try:
        found = metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
    module = _MODULES.get(package, package.replace("-", "_"))
    return found if importlib.util.find_spec(module) is not None else None


# ---- software ----


def _python() -> Finding:
    good = sys.version_info >= (3, 11)
    found = f"{platform.python_version()} ({sys.executable})"
    return Finding("Python", "ok" if good else "missing", found, "everything", "Install Python 3.11 or later.", True)


def _torch() -> Finding:
    found = version("torch")
    purpose = "scoring, pruning, distilling, exporting"
    if found is None:
        return Finding("torch", "missing", "not installed", purpose, "pip install torch", True)
    return Finding("torch", "ok", f"{found}{' (no CUDA)' if '+cpu' in found else ''}", purpose, required=True)


def _base_packages() -> Finding:
    gone = [package for package in BASE_PACKAGES if version(package) is None]
    purpose = "files, tables, pictures, the report, downloads"
    if gone:
        return Finding(
            "base packages",
            "missing",
            f"not installed: {', '.join(gone)}",
            purpose,
            f"pip install {' '.join(gone)}",
            True,
        )
    return Finding("base packages", "ok", f"{len(BASE_PACKAGES)} of {len(BASE_PACKAGES)}", purpose, required=True)


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


def free_space(folder: Path) -> int:
    """Free bytes where ``folder`` is, or would be once it is made."""
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
