"""The host emulator itself, whose libraries tests of different files load into one process."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def test_two_libraries_share_no_variables(host_libraries: dict[str, Path]) -> None:
    """Libraries would share a unique symbol, and kernels with other constants would overrun its arrays."""
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("no nm (binutils) to list symbols")
    for library in host_libraries.values():
        listed = subprocess.run([nm, "-D", "--defined-only", library], capture_output=True, text=True, check=True)
        kinds = {line.split()[1] for line in listed.stdout.splitlines()}
        assert "T" in kinds and kinds <= {"T", "W"}, (
            f"{library.name} exports variables: {sorted(kinds)}"
        )  # W: inline code
