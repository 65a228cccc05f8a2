"""The kernels once more under sanitizers, in a process of their own.

The host's kernels run under AddressSanitizer and UndefinedBehaviorSanitizer, the GPU's under compute-sanitizer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FLAGS = "-O0 -fsanitize=address,undefined -fno-sanitize-recover=all"  # -O0 compiles in half the time
SELECTION = "test_a_batch_beyond_the_grid"  # every kernel, on whole 16 bytes and on odd shapes
KERNELS = tuple(str(Path(__file__).with_name(name)) for name in ("test_kernels.py", "test_modulation.py"))


def runtime() -> str:
    """Return the sanitizer library to load before Python. Skip the test if the compiler has none."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        pytest.skip(f"no C++ compiler ({compiler})")
    command = [compiler, "-print-file-name=libasan.so"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(found).is_file():
        pytest.skip(f"{compiler} comes without AddressSanitizer")
    return found


def run_tests(under: list[str], environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in a process. ``-P`` keeps a checkout's folders from being imported in place of the package."""
    command = [*under, sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_no_kernel_accesses_memory_outside_its_tensors(shared_folder: Path) -> None:
    environment = {
        **os.environ,
        "LD_PRELOAD": runtime(),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter keeps its objects to the end
        "KERNEL_HOST_FLAGS": FLAGS,
        "COMPILED_FOR_TESTS": str(shared_folder),
        "OMP_NUM_THREADS": "1",
    }
    done = run_tests([], environment, *KERNELS, "-k", f"{SELECTION} and emulator")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "passed" in done.stdout


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_compute_sanitizer_finds_nothing(tool: str) -> None:
    if shutil.which("compute-sanitizer") is None:
        pytest.skip("compute-sanitizer, of the CUDA toolkit, is not installed")
    # Without torch's pool every tensor is an allocation of its own, so an access beyond it is an error.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    under = ["compute-sanitizer", "--tool", tool, "--target-processes", "all", "--error-exitcode", "9"]
    done = run_tests(under, environment, *KERNELS, "-k", f"{SELECTION} and gpu")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "passed" in done.stdout and "skipped" not in done.stdout
