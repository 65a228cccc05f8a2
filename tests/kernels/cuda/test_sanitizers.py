"""The kernels once more under sanitizers, in a process that starts with them.

The host form under AddressSanitizer and UndefinedBehaviorSanitizer, the GPU's under compute-sanitizer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FLAGS = "-O0 -fsanitize=address,undefined -fno-sanitize-recover=all"  # -O0: half the time to compile
SELECTION = "test_a_batch_beyond_the_grid"  # every kernel, on whole 16 bytes and on odd shapes
KERNELS = tuple(str(Path(__file__).with_name(name)) for name in ("test_kernels.py", "test_modulation.py"))


def runtime() -> str:
    """The sanitizer library to load before Python; skips where the compiler has none."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        pytest.skip(f"no C++ compiler ({compiler})")
    asked = [compiler, "-print-file-name=libasan.so"]
    found = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(found).is_file():
        pytest.skip(f"{compiler} comes without AddressSanitizer")
    return found


def run_under_sanitizers(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "LD_PRELOAD": runtime(),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter keeps its objects to the end
        "KERNEL_HOST_FLAGS": FLAGS,
        "OMP_NUM_THREADS": "1",
    }
    return run_tests([], environment, *arguments)


def run_tests(under: list[str], environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """pytest in a process of its own. ``-P``: a checkout's folders are not the package, however it is installed."""
    command = [*under, sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_no_kernel_touches_memory_that_is_not_its_own() -> None:
    done = run_under_sanitizers(*KERNELS, "-k", f"{SELECTION} and emulator")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "passed" in done.stdout


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_compute_sanitizer_finds_nothing(tool: str) -> None:
    if shutil.which("compute-sanitizer") is None:
        pytest.skip("compute-sanitizer, of the CUDA toolkit, is not installed")
    # Without torch's pool every tensor is an allocation of its own, and what lies beyond it is nobody's.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    under = ["compute-sanitizer", "--tool", tool, "--target-processes", "all", "--error-exitcode", "9"]
    done = run_tests(under, environment, *KERNELS, "-k", f"{SELECTION} and gpu")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "passed" in done.stdout and "skipped" not in done.stdout
