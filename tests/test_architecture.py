"""The rules of docs/architecture.md that a parser can check."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import dcp_deploy

ROOT = Path(__file__).parents[1]
FOLDERS = ("dcp_deploy", "benchmarks", "export", "kernels")
MAX_LINES = 450

# Folders from top to bottom: a folder imports only from lines below its own. "*" stands for the modules beside them,
# which may import each other. SHARED, the files directly in dcp_deploy/, serve all of them except generators, which
# imports nothing of the project.
LAYERS: dict[str, tuple[str, ...]] = {
    "": (
        "cli training", "schemas", "shipping", "pipeline", "benchmarks", "doctor evaluation report",
        "config", "teachers", "compression export", "metrics", "checkpoints datasets distributed extensions kernels",
        "generators",
    ),
    "benchmarks": ("experiments", "*", "candidates", "machine"),
    "checkpoints": ("*", "pickles"),
    "compression": ("distillation pruning", "scoring", "*"),
    "export": ("serving", "bundle onnx", "parity", "runners", "fused tensorrt", "graph", "*"),
    "kernels": ("*", "cpu cuda"),
    "report": ("comparing", "*"),
}  # fmt: skip
SHARED = {"devices", "efforts", "errors", "files", "gates", "lazy", "progress", "sizes", "version"}
MOST_LOOSE = {"dcp_deploy": 10, "dcp_deploy/compression": 5, "benchmarks": 8, "export": 3, "kernels": 4}
"""The most modules that may lie beside the folders of a folder."""

# What every installation has and what is quick to import; the rest is imported where it is used. Exceptions: scripts
# that a bundle carries away, and modules of one purpose that nobody imports without it.
ANYWHERE = {
    *(Path(f"export/bundle/scripts/{name}.py") for name in ("example_client", "triton_generator", "triton_picture")),
    *(Path(f"export/serving/{name}.py") for name in ("filter_grpc", "filter_http")),
    Path("export/runners/openvino_operators.py"),
}
AT_THE_TOP = {"markupsafe", "numpy", "PIL", "psutil", "pydantic", "rich", "safetensors", "torch", "typer"}
DISTRIBUTION = {  # whose name to install is another
    "PIL": "pillow", "cuda": "cuda-bindings", "google": "protobuf", "grpc": "grpcio", "markupsafe": "jinja2",
    "mlflow": "mlflow-skinny",
}  # fmt: skip


def modules() -> list[Path]:
    """Every Python file of the package, relative to the root of the checkout."""
    return sorted(path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def dotted(module: Path) -> list[str]:
    """export/onnx/exporter.py -> ["dcp_deploy", "export", "onnx"]."""
    parts = list(module.with_suffix("").parts)
    return parts if parts[0] == "dcp_deploy" else ["dcp_deploy", *parts]


@cache
def parsed(module: Path) -> ast.Module:
    return ast.parse((ROOT / module).read_text(encoding="utf-8"))


def imports(module: Path) -> Iterator[tuple[ast.stmt, str]]:
    """Each import statement with the absolute name it imports, "dcp_deploy.errors" for ``from ..errors import X``."""
    for node in ast.walk(parsed(module)):
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


def rank(parent: str, name: str) -> int | None:
    """The line of a folder or module in its parent's layers, 0 at the top; None for those that have none."""
    if name == "__init__":  # its names stand for the whole folder
        return None
    lines = {one: number for number, line in enumerate(LAYERS[parent]) for one in line.split()}
    return lines.get(name, lines.get("*"))


def breaks_a_layer(importer: list[str], imported: list[str]) -> bool:
    """Whether an import goes up, or sideways into another folder, by the first part in which the two names differ."""
    parent, depth = "", 0
    while importer[depth] == imported[depth]:
        parent, depth = importer[depth], depth + 1
        if parent not in LAYERS or depth >= min(len(importer), len(imported)):
            return False
    here, there = rank(parent, importer[depth]), rank(parent, imported[depth])
    if here == there and here is not None and LAYERS[parent][here] == "*":
        return False
    if parent == "" and imported[depth] in SHARED:
        return importer[depth] == "generators"
    return here is not None and there is not None and here >= there


def file_graph() -> dict[str, set[str]]:
    """Each module with the modules that it imports anywhere, in functions and for type checkers too."""
    names = {".".join(dotted(module)).removesuffix(".__init__"): module for module in modules()}
    graph: dict[str, set[str]] = {name: set() for name in names}
    for name, module in names.items():
        for _, imported in imports(module):
            target = imported if imported in names else imported.rpartition(".")[0]
            if target in names and target != name:
                graph[name].add(target)
    return graph


def test_imports_go_down() -> None:
    wrong = [
        f"{module}:{node.lineno} imports {name}"
        for module in modules()
        for node, name in imports(module)
        if name.startswith("dcp_deploy.") and len(dotted(module)) > 2
        if breaks_a_layer(dotted(module)[1:], name.split(".")[1:])
    ]
    assert not wrong, "\n".join(wrong)


def test_nobody_inside_imports_the_public_names() -> None:
    """They stand for everything, and so would close a circle."""
    public = {f"dcp_deploy.{name}" for name in dcp_deploy.__all__} - {"dcp_deploy.errors"}
    wrong = [
        f"{module}:{node.lineno} imports {name}"
        for module in modules()
        for node, name in imports(module)
        if name in public
    ]
    assert not wrong, "\n".join(wrong)


def test_no_files_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter(file_graph()).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_every_module_beside_folders_has_a_layer() -> None:
    parts = [tuple(dotted(module)[1:]) for module in modules() if module.stem not in ("__init__", "__main__")]
    assert {one[0] for one in parts if len(one) == 1} == SHARED | {"config"}
    with_folders = {one[0] for one in parts if len(one) > 2}
    loose = {one[0] for one in parts if len(one) == 2 and one[0] in with_folders}
    assert loose == {parent for parent, lines in LAYERS.items() if "*" in lines}


@pytest.mark.parametrize("folder", MOST_LOOSE)
def test_few_modules_lie_beside_the_folders(folder: str) -> None:
    loose = [path.name for path in (ROOT / folder).glob("*.py") if path.name not in ("__init__.py", "__main__.py")]
    assert len(loose) <= MOST_LOOSE[folder], sorted(loose)


def test_the_rules_name_folders_that_exist() -> None:
    tops = {dotted(module)[1] for module in modules() if len(dotted(module)) > 2}
    named = {folder for lines in LAYERS.values() for line in lines for folder in line.split()}
    below = {dotted(module)[2] for module in modules() if len(dotted(module)) > 3}
    assert named - {"config", "*"} == (tops | below) - {"assets"}


def test_slow_and_optional_packages_are_imported_where_they_are_used() -> None:
    wrong = []
    for module in modules():
        top_level = {node.lineno for node in parsed(module).body}
        for node, name in imports(module):
            slow = third_party(name) and name.split(".")[0] not in AT_THE_TOP
            if slow and node.lineno in top_level and module not in ANYWHERE:
                wrong.append(f"{module}:{node.lineno}: import {name} inside the function")
    assert not wrong, "\n".join(wrong)


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


def test_a_file_is_short_enough_to_read() -> None:
    lengths = {module: len((ROOT / module).read_text(encoding="utf-8").splitlines()) for module in modules()}
    assert {module: lines for module, lines in lengths.items() if lines > MAX_LINES} == {}


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    somewhere = re.compile(rb"(?<![\w./<>-])/(root|work|home/\w+|Users/\w+)/")
    for name in filter(None, listed.decode().split("\0")):
        path = ROOT / name
        if path.is_file():
            assert not somewhere.search(path.read_bytes()), name
