"""The Dockerfiles of docs/docker: facts about images that nobody builds here. hadolint checks the rest."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "docs" / "docker").glob("*.Dockerfile"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def instructions(path: Path, keyword: str) -> list[str]:
    """Return what follows a keyword in each instruction of a Dockerfile, with continued lines joined."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return re.findall(rf"^{keyword} (.+)$", "\n".join(lines).replace("\\\n", " "), flags=re.M)


def test_there_is_an_image_for_a_cpu_and_one_for_a_gpu() -> None:
    assert [path.name for path in FILES] == ["cpu.Dockerfile", "gpu.Dockerfile"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_file_and_the_guide_say_that_the_image_was_not_built(path: Path) -> None:
    head = path.read_text(encoding="utf-8").split("\nFROM ")[0]
    assert "Not built here" in head
    guide = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert "not built here" in guide
    assert f"docs/docker/{path.name}" in guide


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_base_has_a_version_and_the_user_a_number(path: Path) -> None:
    (base,) = instructions(path, "FROM")
    assert re.fullmatch(r"[\w./-]+:\d+\.\d+[\w.-]*", base)
    assert instructions(path, "USER") == ["$UID"]  # Kubernetes' runAsNonRoot needs a number
    assert "UID=1000" in instructions(path, "ARG")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_extras_that_an_image_installs_exist(path: Path) -> None:
    (extras,) = re.findall(r"/source\[([\w,]+)\]", path.read_text(encoding="utf-8"))
    assert set(extras.split(",")) <= set(PROJECT["project"]["optional-dependencies"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_image_is_built_from_the_sources_and_nothing_else(path: Path) -> None:
    ignored = path.with_name(f"{path.name}.dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in ignored if not line.startswith("#")]
    folders = {place.split("/")[0] for place in PROJECT["tool"]["setuptools"]["package-dir"].values()}
    assert rules[0] == "*"
    files = {"LICENSE", "README.md", "constraints.txt", "pyproject.toml"}
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == folders | files
