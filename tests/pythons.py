"""Run the tests of what needs no torch on other Pythons: ``python tests/pythons.py 3.12 3.13``, or ``make pythons``.

Torch's wheels for the CPU are not on the package index, and the ones that are weigh gigabytes, so what needs torch is
only tested on the Python of ``.venv``. An interpreter that this machine lacks is named and fails the run.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
NEEDS_TORCH = {"torch"}
TOOLS = ["onnxruntime", "pytest", "pytest-timeout", "hypothesis", "jsonschema", "lmdb", "PyYAML"]
TESTS = ["test_config.py", "test_files.py", "test_errors.py", "teachers", "datasets", "report"]


def interpreter(version: str) -> str:
    """The path of a Python of this version; ends the program without one."""
    found = next(interpreters(version), None)
    return found or sys.exit(f"Python {version} is not installed on this machine: install it, or leave it out")


def interpreters(version: str) -> Iterator[str]:
    """The paths of all Pythons of this version, from PATH and from pyenv."""
    for candidate in _candidates(version):
        answer = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=False)
        if answer.returncode == 0 and answer.stdout.startswith(f"Python {version}."):
            yield candidate


def _candidates(version: str) -> Iterator[str]:
    found = shutil.which(f"python{version}")
    if found:
        yield found
    yield from map(str, sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python")))


def environment(folder: Path, python: str, *packages: str) -> Path:
    """The Python of an environment in this folder with these packages, made from another Python when missing."""
    found = folder / "bin" / "python"
    if not found.is_file():
        subprocess.run([python, "-m", "venv", folder], check=True)
    install(found, *packages)
    return found


def install(python: Path, *packages: str | Path) -> None:
    """Let pip install packages; options of pip may be among them."""
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages], check=True)


def without_torch(version: str) -> Path:
    """The Python of an environment with all dependencies but torch, made when missing."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [line for line in project["dependencies"] if re.split(r"[<>=~! ]", line)[0] not in NEEDS_TORCH]
    python = environment(ROOT / "build" / "pythons" / version, interpreter(version), *needed, *TOOLS)
    install(python, "--no-deps", "-e", ROOT)
    return python


def main() -> int:
    """Test every version on the command line; return 1 when one of them fails."""
    failed = []
    for version in sys.argv[1:]:
        python = without_torch(version)
        print(f"Python {version}:", flush=True)
        tests = [str(ROOT / "tests" / name) for name in TESTS]
        commands = [["-W", "error", "-m", "dcp_deploy", "build", "--help"], ["-m", "pytest", "-q", *tests]]
        if any(subprocess.run([python, *command], cwd=ROOT, check=False).returncode for command in commands):
            failed.append(version)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
