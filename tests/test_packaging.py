"""The package installs whole, as a wheel and editable, though its source lies in four folders."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES: list[str] = PROJECT["tool"]["setuptools"]["packages"]
FOLDERS = {  # where each source folder lies, and where it installs
    "dcp_deploy": "dcp_deploy",
    "benchmarks": "dcp_deploy/benchmarks",
    "export": "dcp_deploy/export",
    "kernels": "dcp_deploy/kernels",
}


def source_files() -> set[str]:
    """Every file of the source folders, by the path it has once installed."""
    found = set()
    for folder, installed in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                found.add(f"{installed}/{path.relative_to(ROOT / folder).as_posix()}")
    return found


def origins(find: str, *, cwd: Path, path: Path | None = None) -> dict[str, Path]:
    """Where a new interpreter, started in ``cwd``, finds each package, by the expression ``find``."""
    script = (
        "import importlib, importlib.util, json, sys\n"
        f"sys.path[:0] = {[str(path)] if path else []}\n"
        f"print(json.dumps({{name: {find} for name in sys.argv[1:]}}))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *PACKAGES], cwd=cwd, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return {name: Path(file) for name, file in json.loads(done.stdout).items()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources, so that no earlier build/ leaks into it."""
    tree = tmp_path_factory.mktemp("tree")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tree / "dist", tree],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (built,) = (tree / "dist").glob("*.whl")
    return built


def test_every_folder_of_modules_is_listed_as_a_package() -> None:
    folders = {Path(file).parent for file in source_files() if file.endswith(".py")}
    assert {".".join(folder.parts) for folder in folders} == set(PACKAGES)


def test_the_wheel_holds_every_source_and_data_file(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == source_files()


def test_the_wheel_holds_the_licence_and_the_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        entries = {name.split(".dist-info/")[1]: name for name in archive.namelist() if ".dist-info/" in name}
        assert b"Apache License" in archive.read(entries["licenses/LICENSE"])
        assert b"dcp-deploy = dcp_deploy.cli:main" in archive.read(entries["entry_points.txt"])


def test_an_installed_wheel_imports_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    for name, file in origins("importlib.import_module(name).__file__", cwd=tmp_path, path=site).items():
        assert file == site.joinpath(*name.split("."), "__init__.py")


@pytest.mark.parametrize("place", ["the root of the checkout", "elsewhere"])
def test_the_editable_install_imports_from_the_source_folders(place: str, tmp_path: Path) -> None:
    # In the root the folder dcp_deploy/ itself is on the path, without the folders beside it.
    # Found, not imported: that takes seconds, and every other test imports from these folders anyway.
    cwd = ROOT if place != "elsewhere" else tmp_path
    for name, file in origins("importlib.util.find_spec(name).origin", cwd=cwd).items():
        folders = name.split(".")[1:]
        home = ROOT if folders and folders[0] in FOLDERS else ROOT / "dcp_deploy"
        assert file == home.joinpath(*folders, "__init__.py")


@pytest.mark.parametrize("place", ["the root of the checkout", "elsewhere"])
def test_python_dash_m_is_the_command(place: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dcp_deploy", "--help"],
        cwd=ROOT if place != "elsewhere" else tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout
    assert "build" in done.stdout


def test_every_extra_that_a_message_names_exists() -> None:
    named = {
        (extra, path)
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        for group in re.findall(r"dcp-deploy\[([a-z,-]+)\]", path.read_text(encoding="utf-8"))
        for extra in group.split(",")
    }
    assert len({extra for extra, _ in named}) >= 6
    unknown = {(extra, path) for extra, path in named if extra not in PROJECT["project"]["optional-dependencies"]}
    assert not unknown


def test_the_words_of_pip_about_environments_without_dependencies_go_to_a_log() -> None:
    """Such an install is on purpose, and pip complains about it in dozens of lines."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    installs = [line for line in makefile.splitlines() if "--no-deps" in line and "pip install" in line]
    assert installs
    assert all(re.search(r"> \S+\.log 2>&1", line) for line in installs)
