"""The rules of docs/architecture.md that a parser can check."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("dcp_deploy", "benchmarks", "export", "kernels")
MAX_LINES = 450

# Who may import whom. A room is a sub-package or a module directly under dcp_deploy. "errors", "files" and "lazy" are
# open to all but generators; the public names of dcp_deploy import everything, so nobody inside imports them.
OPEN = {"errors", "files", "lazy"}
GROUND = {"generators", "checkpoints", "datasets", "metrics", "kernels"}
STAGES = {"compression", "export", "benchmarks", "report"}
BUILD = {
    "abilities", "bundled_forms", "bundling", "config", "distilling", "doctor", "downloads", "editing", "estimate",
    "evaluation", "inspection", "model_card", "pipeline", "presets", "progress", "projection", "real_data",
    "run_record", "sampling", "stages", "summary", "transfer",
}  # fmt: skip
CLI = {"cli", "cli_measure", "cli_options", "cli_output", "cli_serving", "cli_stages", "cli_tables", "cli_values"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "files": set(),
    "lazy": set(),
    "assets": set(),
    "generators": set(),
    "kernels": set(),
    "checkpoints": {"generators"},
    "datasets": {"generators"},
    "metrics": {"generators", "checkpoints", "datasets"},
    "compression": GROUND,
    "export": GROUND,
    # What it times are artefacts, through their runners; the quality experiment makes the students it compares.
    "benchmarks": GROUND | {"export", "compression", "sampling"},
    "report": set(),  # reads the files of a run directory and runs nothing
    **dict.fromkeys(BUILD, GROUND | STAGES | BUILD),
    "presets": set(),
    "config": {"presets"},
    # Models of what the verbs print, which are made of what the rooms return.
    "schemas": STAGES | BUILD | {"metrics"},
    **dict.fromkeys(CLI, GROUND | STAGES | BUILD | CLI | {"schemas"}),
    "training": GROUND | STAGES | BUILD,  # a recipe to run, on top like the command line; nobody imports it
    "__main__": {"cli"},
    "__init__": GROUND | STAGES | BUILD,
}

# What every installation has and what is quick to import; the rest is imported where it is used.
TRAVELS = {Path(f"export/{name}.py") for name in ("example_client", "triton_generator", "triton_picture")}
"""Scripts that a bundle carries away: they run without dcp-deploy and import what they need at their top."""
OPTIONAL = {Path(f"export/{name}.py") for name in ("guard_grpc", "guard_http", "openvino_operators")}
"""Modules of one purpose that nobody imports without it, and whose package they are about."""
AT_THE_TOP = {"markupsafe", "numpy", "PIL", "psutil", "pydantic", "rich", "safetensors", "torch", "typer"}
DISTRIBUTION = {  # whose name to install is another
    "PIL": "pillow", "cuda": "cuda-bindings", "google": "protobuf", "grpc": "grpcio", "markupsafe": "jinja2",
}  # fmt: skip


def modules() -> list[Path]:
    """Every Python file of the package, relative to the root of the checkout."""
    return sorted(path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def dotted(module: Path) -> list[str]:
    """export/onnx/exporter.py -> ["dcp_deploy", "export", "onnx"]."""
    parts = list(module.with_suffix("").parts)
    return parts if parts[0] == "dcp_deploy" else ["dcp_deploy", *parts]


def room_of(module: Path) -> str:
    return dotted(module)[1]


def imports(module: Path) -> Iterator[tuple[ast.stmt, str]]:
    """Each import statement with the absolute name it imports, "dcp_deploy.errors" for ``from ..errors import X``."""
    for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = dotted(module)[: -node.level] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node, f"{origin}.{alias.name}"


def third_party(name: str) -> bool:
    top = name.split(".")[0]
    return top != "dcp_deploy" and top not in sys.stdlib_module_names


@pytest.mark.parametrize("module", modules(), ids=str)
def test_a_room_imports_only_rooms_that_it_may(module: Path) -> None:
    room = room_of(module)
    allowed = MAY_IMPORT[room] | {room} | (set() if room == "generators" else OPEN)
    for node, name in imports(module):
        if name.startswith("dcp_deploy.") and name != "dcp_deploy.__version__":
            imported = name.split(".")[1]
            assert imported in allowed, f"{module}:{node.lineno}: {room} may not import {imported}"


@pytest.mark.parametrize("module", modules(), ids=str)
def test_slow_and_optional_packages_are_imported_where_they_are_used(module: Path) -> None:
    top_level = {node.lineno for node in ast.parse((ROOT / module).read_text(encoding="utf-8")).body}
    for node, name in imports(module):
        if third_party(name) and node.lineno in top_level and module not in TRAVELS | OPTIONAL:
            assert name.split(".")[0] in AT_THE_TOP, f"{module}:{node.lineno}: import {name} inside the function"


def test_every_package_that_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for name, lines in project["optional-dependencies"].items() if name != "dev" for line in lines]
    declared = {re.split(r"[\[<>=~! ]", line)[0].lower() for line in [*project["dependencies"], *extras]}
    for module in modules():
        for node, name in imports(module):
            if third_party(name) and name != "triton_python_backend_utils":  # the server's own
                top = name.split(".")[0]
                needed = DISTRIBUTION.get(top, top.replace("_", "-")).lower()
                assert needed in declared, f"{module}:{node.lineno}: {needed} is not in pyproject.toml"


@pytest.mark.parametrize("module", modules(), ids=str)
def test_a_file_is_short_enough_to_read(module: Path) -> None:
    lines = len((ROOT / module).read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{module} has {lines} lines: split it by what it does"


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    somewhere = re.compile(rb"(?<![\w./<>-])/(root|work|home/\w+|Users/\w+)/")
    for name in filter(None, listed.decode().split("\0")):
        path = ROOT / name
        if path.is_file():
            assert not somewhere.search(path.read_bytes()), name
