"""Checks of what works on this machine, with a fix for whatever does not.

Imports nothing but the standard library and guards every probe, so that it also answers on a broken installation:
``python -m dcp_deploy.doctor`` runs where the command line itself cannot start.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from ..files import find_compiler, free_space
from .verbs import VerbStatus, Verdict, verb_statuses

_MODULES = {
    "cuda-bindings": "cuda", "nvidia-cuda-nvrtc": "nvidia", "nvidia-pytriton": "pytriton",
    "onnxruntime-gpu": "onnxruntime", "Pillow": "PIL",
}  # fmt: skip
TRITON_VARIABLE = "DCP_DEPLOY_TRITON"  # also read by serve --server
REQUIRED = ("Python", "torch", "base packages", "ONNX Runtime")
MEMORY_NEEDED = 4_000_000_000  # bytes that the demo may use
DISK_NEEDED = 1_000_000_000  # bytes of a demo's run directory, temporary files included

Answer = tuple[Verdict, str, str]
"""Result of a probe: the verdict, what was found, and the fix; the fix is empty if the verdict is "ok"."""


@dataclass(frozen=True)
class Finding:
    """One capability: what was found, what it is for, and the fix if it is missing or limited."""

    name: str
    verdict: Verdict
    found: str
    purpose: str
    fix: str = ""
    required: bool = False

    @property
    def blocks(self) -> bool:
        """True if the capability is required and missing."""
        return self.required and self.verdict == "missing"


@dataclass(frozen=True)
class Diagnosis:
    """All findings, and what they mean for the demo build and for each verb."""

    findings: tuple[Finding, ...]

    @property
    def verbs(self) -> tuple[VerbStatus, ...]:
        """What each verb can do on this machine."""
        return verb_statuses({finding.name: finding.verdict for finding in self.findings})

    @property
    def healthy(self) -> bool:
        """True if ``build --dataset demo`` can run here: no required capability is missing."""
        return not any(finding.blocks for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "healthy": self.healthy,
            "findings": [asdict(finding) for finding in self.findings],
            "verbs": [asdict(status) for status in self.verbs],
        }

    def lines(self) -> list[str]:
        """Return plain text lines, for a terminal without the packages that draw tables."""
        findings = [
            f"{one.verdict:<8} {one.name}: {one.found}" + (f" -> {one.fix}" if one.fix else "") for one in self.findings
        ]
        verbs = [
            f"{one.verdict:<8} dcp-deploy {one.verb}" + (f": {one.words}" if one.words else "") for one in self.verbs
        ]
        return findings + verbs


def diagnose(directory: Path | None = None) -> Diagnosis:
    """Probe this machine; ``directory`` is where results would be written (default: the working directory).

    Never raises: a probe that fails says so in its finding.
    """
    probes: list[tuple[str, str, Callable[[], Answer]]] = [
        ("Python", "everything", _python),
        ("torch", "scoring, pruning, distilling, exporting", _torch),
        ("base packages", "files, tables, pictures, the report, downloads", _base_packages),
        ("demo teacher", "build --dataset demo", _demo_teacher),
        ("ONNX Runtime", "running, verifying and measuring exported models; build needs it", _onnxruntime),
        ("OpenVINO", "running exported models faster on a CPU", lambda: _package("openvino", "openvino")),
        ("TensorRT-RTX", "building engines for other GPUs, without a GPU in this machine", _tensorrt_rtx),
        ("TensorRT", "building engines for the GPU in this machine", _tensorrt),
        ("NVIDIA GPU", "fast scoring and distilling, running engines", _gpu),
        ("C++ compiler", "the CPU operators and torch.compile, which compile code on first use", _cpp_compiler),
        ("CUDA compiler", "compiling CUDA kernels", _cuda_compiler),
        ("Triton server", "serve", _triton_server),
        ("Triton client", "verify BUNDLE http://HOST:PORT", lambda: _package("tritonclient", "serve")),
        ("Hub client", "push, and teachers from hf://", lambda: _package("huggingface-hub", "hub")),
        ("published features", "eval --data, distill --data, --lpips", _published_features),
        ("MP4 writer", "sample --interpolate to an MP4 file", lambda: _package("imageio-ffmpeg", "video")),
        ("memory", "distilling", _memory),
        ("disk", "run directories", lambda: _disk(directory or Path())),
    ]
    return Diagnosis(tuple(_finding(*probe) for probe in probes))


def _finding(name: str, purpose: str, probe: Callable[[], Answer]) -> Finding:
    try:
        verdict, found, fix = probe()
    except Exception as error:  # an unexpected machine must not hide the other findings
        verdict, found = "missing", f"the probe failed: {type(error).__name__}: {error}"
        fix = "Report this line to the authors of dcp-deploy."
    return Finding(name, verdict, found, purpose, fix, name in REQUIRED)


def version(package: str) -> str | None:
    """Return the version of an installed distribution, or None if it or its module is not found. Imports nothing."""
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


def _package(package: str, extra: str) -> Answer:
    """Answer for a package that the extra ``extra`` of dcp-deploy installs."""
    found = version(package)
    return ("ok", found, "") if found else ("missing", "not installed", f"pip install 'dcp-deploy[{extra}]'")


def _python() -> Answer:
    found = f"{platform.python_version()} ({sys.executable})"
    return ("ok", found, "") if sys.version_info >= (3, 11) else ("missing", found, "Install Python 3.11 or later.")


def _torch() -> Answer:
    found = version("torch")
    if found is None:
        return "missing", "not installed", "pip install torch"
    return "ok", f"{found}{' (no CUDA)' if '+cpu' in found else ''}", ""


def _base_packages() -> Answer:
    needed = required_packages()
    wrong = {}
    for package, least in needed.items():
        found = version(package)
        if found is None:
            wrong[package] = f"{package} is not installed"
        elif _numbers(found) < _numbers(least):
            wrong[package] = f"{package} is {found}, older than {least}"
    if wrong:
        fix = f"pip install {' '.join(repr(f'{package}>={needed[package]}') for package in wrong)}"
        return "missing", "; ".join(wrong.values()), fix
    return "ok", f"{len(needed)} of {len(needed)}", ""


def required_packages() -> dict[str, str]:
    """Return {package: oldest version} of every dependency of dcp-deploy except torch, extras left out."""
    lines = [line for line in metadata.requires("dcp-deploy") or () if "extra ==" not in line]
    found = [(re.split(r"\W*>=", line)[0], line.split(">=")[1]) for line in lines]
    return {package: least for package, least in found if package != "torch"}


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version.split("+")[0])]


def _demo_teacher() -> Answer:
    asset = resources.files("dcp_deploy") / "assets" / "demo_teacher.safetensors"
    if not asset.is_file():
        return "missing", "not in this installation", "Reinstall dcp-deploy, or give build a --teacher FILE."
    return "ok", f"{Path(str(asset)).stat().st_size / 1e6:.1f} MB", ""


def _onnxruntime() -> Answer:
    cpu, gpu = version("onnxruntime"), version("onnxruntime-gpu")
    if cpu and gpu:
        fix = "They overwrite each other: pip uninstall onnxruntime onnxruntime-gpu, then install one of them."
        return "limited", f"onnxruntime {cpu} and onnxruntime-gpu {gpu}", fix
    if not cpu and not gpu:
        return "missing", "not installed", "pip install 'dcp-deploy[cpu]'"
    return "ok", f"{f'{cpu} (CPU)' if cpu else f'{gpu} (CUDA)'}; {_files_run_in()}", ""


def _files_run_in() -> str:
    """Return where exported files run, also beyond this machine, and how new a file may be to run here."""
    from ..export.graph.releases import RELEASES, release_of, runtime_words

    here = release_of(version("onnxruntime") or version("onnxruntime-gpu") or "")
    limit = "" if here is None else f"files here up to IR version {here.ir} and opset {here.opset} at least; "
    return f"{limit}exported files run in {runtime_words(RELEASES[0].ir, RELEASES[0].opset)}"


def _tensorrt_rtx() -> Answer:
    answer = _package("tensorrt-rtx", "rtx")
    system = platform.system(), platform.machine()
    if answer[0] == "ok" and system != ("Linux", "x86_64"):
        return "limited", f"{answer[1]} on {' '.join(system)}", "Use x86-64 Linux: other systems are not tested."
    return answer


def _tensorrt() -> Answer:
    answer = _package("tensorrt", "gpu")
    if answer[1].startswith("10.14."):  # Torch-TensorRT refuses this series too
        return "limited", f"{answer[1]}, a series with broken plugins", "pip install 'tensorrt!=10.14.*'"
    return answer


def _triton_server() -> Answer:
    fix = (
        "Run python3 -m venv triton && triton/bin/pip install nvidia-pytriton onnxruntime, "
        f"then give serve --server triton, or set {TRITON_VARIABLE}=triton."
    )
    named = os.environ.get(TRITON_VARIABLE)
    if named:
        path = Path(named)
        if path.is_file() or any(path.glob("lib/python*/site-packages/nvidia_pytriton-*.dist-info")):
            return "ok", f"{path} ({TRITON_VARIABLE})", ""
        return "missing", f"{path} ({TRITON_VARIABLE}) is neither a tritonserver nor holds nvidia-pytriton", fix
    full = shutil.which("tritonserver")
    if full is not None:
        return "ok", full, ""
    bundled, numpy = version("nvidia-pytriton"), version("numpy") or "none"
    if bundled is None:
        return "missing", "neither tritonserver nor nvidia-pytriton found", fix
    if not numpy.startswith("1."):
        return "missing", f"nvidia-pytriton {bundled} needs numpy 1, not {numpy}", fix
    return "ok", f"nvidia-pytriton {bundled}", ""


def _published_features() -> Answer:
    found = {package: version(package) for package in ("torch-fidelity", "lpips")}
    lacking = [package for package, number in found.items() if number is None]
    if lacking:
        return "missing", f"without {', '.join(lacking)}", "pip install 'dcp-deploy[metrics]'"
    return "ok", ", ".join(f"{package} {number}" for package, number in found.items()), ""


# ---- hardware ----


def _gpu() -> Answer:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        fix = "The demo needs no GPU. If this machine has one, install its driver."
        return "missing", "no driver (nvidia-smi not found)", fix
    query = [tool, "--query-gpu=name,compute_cap,memory.total,driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
    if answer.returncode != 0 or not answer.stdout.strip():
        listed = (answer.stdout + answer.stderr).strip() or "none listed"
        return "missing", listed, "Check the driver with nvidia-smi."
    name, capability, memory, driver = (part.strip() for part in answer.stdout.splitlines()[0].split(","))
    found = f"{name}, sm{capability.replace('.', '')}, {memory}, driver {driver}"
    if "+cpu" in (version("torch") or ""):
        return "limited", f"{found}; torch cannot use it", "Install a CUDA build of torch."
    return "ok", found, ""


def _cuda_compiler() -> Answer:
    nvcc, nvrtc = shutil.which("nvcc"), version("nvidia-cuda-nvrtc")
    if nvrtc and version("cuda-bindings"):
        return "ok", f"NVRTC {nvrtc}", ""
    if nvcc is None:
        fix = "Needed only for this package's kernels in torch on a GPU: pip install 'dcp-deploy[kernels]'"
        return "missing", "neither NVRTC nor nvcc found", fix
    release = next((line.strip() for line in _version_lines(nvcc) if "release" in line), "version unknown")
    return "ok", f"{nvcc}: {release}", ""


def _cpp_compiler() -> Answer:
    compiler = find_compiler()
    if compiler is None:
        return "missing", "none found", "Install g++ or clang++, or set CXX to a C++ compiler."
    return "ok", f"{compiler}: {_version_lines(compiler)[0]}", ""


def _version_lines(program: str) -> list[str]:
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=True)
    return answer.stdout.splitlines()


def _memory() -> Answer:
    usable = usable_memory()
    found = f"{usable / 1e9:.1f} GB usable, {len(os.sched_getaffinity(0))} cores"
    if usable < MEMORY_NEEDED:
        return "limited", found, f"Free some memory: the demo needs {MEMORY_NEEDED / 1e9:.0f} GB."
    return "ok", found, ""


def usable_memory() -> int:
    """Return the bytes this process could get: what the kernel calls available, or a container's limit if lower."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            limits.append(int(line.split()[1]) * 1024)
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = Path(file).read_text(encoding="ascii").strip() if Path(file).is_file() else ""
        if text.isdecimal():  # "max" means without a limit
            limits.append(int(text))
    return min(limits)


def _disk(folder: Path) -> Answer:
    free = free_space(folder)
    found = f"{free / 1e9:.1f} GB free in {folder.resolve()}"
    if free < DISK_NEEDED:
        return "limited", found, "Free some space, or give build another --out."
    return "ok", found, ""
