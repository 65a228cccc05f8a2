"""The API reference that ``make docs`` builds."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dcp_deploy

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of pages. The generator's warnings are errors; ``--assume-old`` keeps this environment."""
    folder = tmp_path_factory.mktemp("site")
    command = ["make", "--assume-old=.venv/.ready", "docs", f"BIN={Path(sys.executable).parent}", f"SITE={folder}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_first_page_has_every_public_name_with_its_docstring(site: Path) -> None:
    page = (site / "dcp_deploy.html").read_text(encoding="utf-8")
    for name in set(dcp_deploy.__all__) - {"errors", "__version__"}:
        assert f'id="{name}"' in page, name
        if name == "RECIPES":  # a plain dictionary, described on its module's page
            continue
        plain = re.findall(r"[A-Za-z][A-Za-z ]{9,}", getattr(dcp_deploy, name).__doc__)  # words between markup
        assert plain[0].strip() in html.unescape(page), name


@pytest.mark.slow
def test_the_fields_of_a_recipe_and_the_recipes_are_described(site: Path) -> None:
    page = html.unescape(re.sub(r"<[^>]+>", "", (site / "dcp_deploy.html").read_text(encoding="utf-8")))
    for words in ("Share of lr left at the last step", "Number format of the convolutions in training"):
        assert words in page
    assert "Run directory [build/<dataset>]." in page  # the brackets are not read as markup
    recipes = (site / "dcp_deploy" / "compression" / "distillation" / "recipe.html").read_text(encoding="utf-8")
    assert "The recipe of each effort." in recipes


@pytest.mark.slow
def test_documented_packages_have_pages_and_errors_their_exit_codes(site: Path) -> None:
    for page in ("export/tensorrt", "export/bundle", "compression", "checkpoints", "schemas"):
        assert (site / "dcp_deploy" / f"{page}.html").stat().st_size > 5_000
    assert "StaleArtifactError" in (site / "dcp_deploy" / "errors.html").read_text(encoding="utf-8")
