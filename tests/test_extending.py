"""The examples of docs/extending.md."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import dcp_deploy
from dcp_deploy.checkpoints import save_generator
from dcp_deploy.compression import RECIPES
from dcp_deploy.extensions.functions import GROUPS
from dcp_deploy.generators import Generator, GeneratorConfig

TEXT = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
OURS, LIBRARY = re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.M | re.S)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder with the first example and a small teacher."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(RECIPES, "quick", replace(RECIPES["quick"], steps=2))
    (tmp_path / "ours.py").write_text(OURS, encoding="utf-8")
    torch.manual_seed(0)
    save_generator(Generator(GeneratorConfig(8, (16, 16, 16, 16), z_dim=8, w_dim=8)), tmp_path / "teacher.safetensors")
    yield tmp_path
    sys.modules.pop("ours", None)


def test_the_library_example_trains_with_the_loss_a_student_that_the_score_pruned(folder: Path) -> None:
    names: dict[str, Any] = {}
    exec(compile(LIBRARY, "extending.md", "exec"), names)
    assert names["scores"].settings["function"]["function"] == "ours:styled_norm"
    last = names["result"].history[-1]
    assert last["total"] == pytest.approx(3 * last["l1"] + 2 * last["edges"], rel=1e-6)
    assert names["result"].generator.config.widths == (8, 8, 8, 8)


def test_the_score_works_for_a_conditional_generator_too(folder: Path) -> None:
    torch.manual_seed(0)
    teacher = Generator(GeneratorConfig(8, (6, 5, 4, 3), z_dim=8, w_dim=8, c_dim=3))
    assert dcp_deploy.score(teacher, method="ours:styled_norm", latents=4).widths == (6, 5, 4, 3)


def test_the_groups_of_the_entry_points_are_those_that_are_searched() -> None:
    (block,) = re.findall(r"^```toml\n(.*?)^```", TEXT, flags=re.M | re.S)
    assert set(tomllib.loads(block)["project"]["entry-points"]) == set(GROUPS.values())
