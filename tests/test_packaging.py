"""The package installs whole, from sdist, wheel and checkout, though its source lies in four folders."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import trove_classifiers
from packaging.metadata import Metadata

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


def origins(find: str, *, cwd: Path, python: Path | str = sys.executable) -> dict[str, Path]:
    """Where a new interpreter, started in ``cwd``, finds each package, by the expression ``find``."""
    script = (
        f"import importlib, importlib.util, json, sys\nprint(json.dumps({{name: {find} for name in sys.argv[1:]}}))"
    )
    done = subprocess.run(
        [python, "-W", "error", "-c", script, *PACKAGES], cwd=cwd, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return {name: Path(file) for name, file in json.loads(done.stdout).items()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of sdist and wheel, as ``make dist`` makes them, from a copy in which an earlier build/ cannot be.

    Beside the sources lie files that do not belong in a package.
    """
    tree = tmp_path_factory.mktemp("tree")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "CHANGELOG.md", "constraints.txt"):
        shutil.copy(ROOT / name, tree)
    (tree / "tests").mkdir()
    for name in (".env", "notes.txt", "tests/test_files.py", "dcp_deploy/.env", "export/notes.txt"):
        (tree / name).write_text("private\n")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", tree / "dist", tree],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return tree / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Metadata:
    """What a package index reads of the wheel; a field that breaks its rules is an error."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Metadata.from_email(archive.read(name), validate=True)


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


def test_the_sdist_holds_the_sources_their_description_and_nothing_else(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames() if archive.getmember(name).isfile()}
    folders = {installed: folder for folder, installed in FOLDERS.items() if folder != "dcp_deploy"}
    sources = set()
    for file in source_files():
        home = next((installed for installed in folders if file.startswith(f"{installed}/")), "")
        sources.add(file.replace(home, folders[home], 1) if home else file)
    described = {"LICENSE", "README.md", "CHANGELOG.md", "MANIFEST.in", "pyproject.toml", "setup.cfg", "PKG-INFO"}
    assert {name for name in names if not name.startswith("dcp_deploy.egg-info/")} == sources | described


def test_a_package_index_accepts_both_files(built: Path) -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *built.iterdir()],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout
    assert checked.stdout.count("PASSED") == 2


def test_the_metadata_name_licence_pythons_and_known_classifiers(metadata: Metadata) -> None:
    assert metadata.license_expression == "Apache-2.0"
    assert metadata.license_files == ["LICENSE"]
    assert metadata.summary == PROJECT["project"]["description"]
    assert metadata.classifiers and set(metadata.classifiers) <= set(trove_classifiers.classifiers)
    assert not [name for name in metadata.classifiers if name.startswith("License ::")]  # the expression replaces them
    pythons = [name.rpartition(" ")[2] for name in metadata.classifiers if re.search(r":: 3\.\d+$", name)]
    assert metadata.requires_python and all(metadata.requires_python.contains(version) for version in pythons)
    assert set(metadata.provides_extra or ()) == set(PROJECT["project"]["optional-dependencies"])


def test_the_metadata_have_the_readme_and_no_link_that_is_not_https(metadata: Metadata) -> None:
    assert metadata.description_content_type == "text/markdown"
    assert metadata.description == (ROOT / "README.md").read_text(encoding="utf-8")
    assert [url for url in (metadata.project_urls or {}).values() if not url.startswith("https://")] == []


def test_a_wheel_in_a_new_environment_runs_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    python = tmp_path / "new" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "new"], check=True)
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-compile"]
    subprocess.run([*pip, "--no-index", wheel], check=True, capture_output=True, timeout=120)
    (site,) = (tmp_path / "new").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")  # those of this environment
    for name, file in origins("importlib.import_module(name).__file__", cwd=tmp_path, python=python).items():
        assert file == site.joinpath(*name.split("."), "__init__.py")
    command = python.with_name("dcp-deploy")
    asset = site / "dcp_deploy" / "assets" / "demo_teacher.safetensors"
    for arguments, expected in ((["--help"], "Usage:"), (["inspect", asset], "stylegan2")):
        done = subprocess.run([command, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout


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
