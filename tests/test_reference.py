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
        plain = re.findall(r"[A-Za-z][A-Za-z ]{9,}", getattr(dcp_deploy, name).__doc__)  # words between markup
        assert plain[0].strip() in html.unescape(page), name


@pytest.mark.slow
def test_documented_packages_have_pages_and_errors_their_exit_codes(site: Path) -> None:
    for page in ("export/tensorrt", "export/bundle", "compression", "checkpoints", "schemas"):
        assert (site / "dcp_deploy" / f"{page}.html").stat().st_size > 5_000
    assert "StaleArtifactError" in (site / "dcp_deploy" / "errors.html").read_text(encoding="utf-8")
