"""What the Makefile would run: where the packages of an environment come from."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CPU = "https://download.pytorch.org/whl/cpu"


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A checkout without environments."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def recipe(folder: Path, *arguments: str) -> list[str]:
    """Return the commands that make would run in ``folder``, without running them."""
    command = ["env", "-u", "TORCH_INDEX", "-u", "MAKEFLAGS", "make", "--dry-run", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.splitlines()


def installs(lines: list[str]) -> list[list[str]]:
    """Return the arguments of each pip install, without what follows the command."""
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [re.split(r"[|>&]", line)[0].split() for line in joined if "pip install" in line]


def test_from_an_index_of_its_own_pip_takes_torch_and_nothing_else(fresh: Path) -> None:
    torch, everything = installs(recipe(fresh, "demo", f"TORCH_INDEX={CPU}"))
    assert torch[torch.index("--index-url") + 1] == CPU
    assert torch[-1] == "torch"  # the name; constraints.txt has the version
    assert "--no-deps" in torch
    assert torch[torch.index("-c") + 1] == "constraints.txt"
    assert CPU not in everything


@pytest.mark.parametrize("target", ["demo", "test", "check", "docs", "dist"])
def test_by_default_every_package_comes_from_the_index_that_pip_is_set_up_for(fresh: Path, target: str) -> None:
    lines = installs(recipe(fresh, target))
    assert lines
    assert not [word for line in lines for word in line if "index" in word or "://" in word]


@pytest.mark.parametrize("target", ["demo", "test"])
def test_no_second_index_can_supply_a_package_of_the_first(fresh: Path, target: str) -> None:
    lines = installs(recipe(fresh, target, f"TORCH_INDEX={CPU}"))
    assert not [line for line in lines if "--extra-index-url" in line]
    assert [line[-1] for line in lines if "--index-url" in line] == ["torch"]


def test_an_environment_is_updated_from_the_index_that_it_was_made_with(fresh: Path) -> None:
    (record,) = [line for line in recipe(fresh, "demo", f"TORCH_INDEX={CPU}") if ".venv/torch-index" in line]
    (fresh / ".venv").mkdir()
    subprocess.run(record, shell=True, cwd=fresh, check=True)
    assert CPU in installs(recipe(fresh, "demo"))[0]
    assert (
        "https://other.example/simple" in installs(recipe(fresh, "demo", "TORCH_INDEX=https://other.example/simple"))[0]
    )


def test_an_index_in_the_environment_of_make_counts_too(fresh: Path) -> None:
    shown = subprocess.run(
        ["env", "-u", "MAKEFLAGS", f"TORCH_INDEX={CPU}", "make", "--dry-run", "demo"],
        cwd=fresh, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert CPU in installs(shown.splitlines())[0]
