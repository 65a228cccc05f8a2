"""The host form once more under AddressSanitizer and UndefinedBehaviorSanitizer, in a process that starts with them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FLAGS = "-O0 -fsanitize=address,undefined -fno-sanitize-recover=all"  # -O0: half the time to compile
SELECTION = "test_a_batch_beyond_the_grid"  # every kernel, on whole 16 bytes and on odd shapes


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
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_no_kernel_touches_memory_that_is_not_its_own() -> None:
    done = run_under_sanitizers(str(Path(__file__).with_name("test_host.py")), "-k", SELECTION)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "passed" in done.stdout
