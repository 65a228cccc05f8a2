"""The documentation as one site, which ``make docs`` builds: guides, README and API."""

from __future__ import annotations

import html
import importlib
import inspect
import re
import subprocess
import sys
import textwrap
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import torch

import dcp_deploy
from dcp_deploy.checkpoints import save_generator
from dcp_deploy.generators import Generator, GeneratorConfig

ROOT = Path(__file__).parents[1]
GUIDES = sorted(path.stem for path in (ROOT / "docs").glob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of pages. The generator's warnings are errors; ``--assume-old`` keeps this environment."""
    folder = tmp_path_factory.mktemp("site")
    command = ["make", "--assume-old=.venv/.ready", "docs", f"BIN={Path(sys.executable).parent}", f"SITE={folder}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "--fail-on-warning" in done.stdout
    return folder


def page(site: Path, name: str) -> str:
    return (site / f"{name}.html").read_text(encoding="utf-8")


def words(site: Path, name: str) -> str:
    """Return the text of a page without markup."""
    return html.unescape(re.sub(r"<[^>]+>", "", page(site, name)))


@cache
def anchors(site: Path, name: str) -> set[str]:
    return set(re.findall(r'\bid="([^"]+)"', page(site, name)))


@pytest.mark.slow
def test_every_public_name_is_described_with_its_docstring(site: Path) -> None:
    text = words(site, "api/library")
    for name in set(dcp_deploy.__all__) - {"errors", "__version__"}:
        assert f"dcp_deploy.{name}" in anchors(site, "api/library"), name
        if name == "RECIPES":  # a plain dictionary, whose docstring only its module has
            continue
        plain = re.findall(r"[A-Za-z][A-Za-z ]{9,}", getattr(dcp_deploy, name).__doc__)  # words between markup
        assert plain[0].strip() in text, name


@pytest.mark.slow
def test_the_fields_of_settings_are_described(site: Path) -> None:
    text = words(site, "api/library")
    for field in ("Share of lr left at the last step", "Number format of the convolutions in training"):
        assert field in text
    assert "Run directory [build/<dataset>]." in text  # the brackets are not read as markup


@pytest.mark.slow
def test_every_name_of_a_documented_module_is_described(site: Path) -> None:
    pages = [path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs" / "api").glob("*.rst")]
    documented = {
        name: page for page in pages
        for name in re.findall(r"automodule:: (\S+)", (ROOT / "docs" / f"{page}.rst").read_text(encoding="utf-8"))
    }  # fmt: skip
    assert {"dcp_deploy.export.tensorrt", "dcp_deploy.schemas", "dcp_deploy.errors"} <= set(documented)
    everywhere = {anchor for page in pages for anchor in anchors(site, str(page))}
    for module, place in documented.items():
        assert f"module-{module}" in anchors(site, str(place))
        for name in getattr(importlib.import_module(module), "__all__", ()):
            value = getattr(importlib.import_module(module), name)
            if inspect.isfunction(value) or inspect.isclass(value):
                assert any(anchor.endswith(f".{name}") for anchor in everywhere), f"{module}.{name}"


@pytest.mark.slow
def test_every_guide_is_a_page_that_the_first_page_leads_to(site: Path) -> None:
    linked = set(re.findall(r'href="([\w/.-]+)\.html[#"]', page(site, "index")))
    assert set(GUIDES) - {"index"} <= linked
    assert {"api/library", "api/errors"} <= linked
    assert "Make a StyleGAN generator small and fast" in words(site, "index")  # the README


@pytest.mark.slow
def test_every_link_within_the_site_leads_to_a_page_and_a_place_on_it(site: Path) -> None:
    for path in site.rglob("*.html"):
        for link in re.findall(r'<a [^>]*href="([^"]+)"', path.read_text(encoding="utf-8")):
            target, _, place = html.unescape(link).partition("#")
            if re.match(r"[a-z]+:", target):
                assert target.startswith("https://"), f"{path.name}: {link}"
                continue
            file = path.parent / unquote(target) if target else path
            assert file.is_file(), f"{path.name}: {link}"
            if place and file.suffix == ".html" and place != "furo-main-content":
                name = file.resolve().relative_to(site.resolve()).with_suffix("")
                assert unquote(place) in anchors(site, str(name)), f"{path.name}: {link}"


@pytest.mark.slow
def test_pages_need_no_network_and_have_their_images(site: Path) -> None:
    images = 0
    for path in site.rglob("*.html"):
        for source in re.findall(r'<(?:img|script|link)\b[^>]*?\b(?:src|href)="([^"#]+)', path.read_text("utf-8")):
            assert not re.match(r"(https?:)?//", source), f"{path.name}: {source}"
            assert (path.parent / unquote(source.split("?")[0])).is_file(), f"{path.name}: {source}"
            images += source.endswith(".png")
    assert images >= 5


@pytest.mark.slow
def test_the_examples_of_the_library_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "api" / "library.rst").read_text(encoding="utf-8")
    examples = re.findall(r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)", text, flags=re.M)
    torch.manual_seed(0)
    save_generator(Generator(GeneratorConfig(8, (8, 8, 8, 8), z_dim=8, w_dim=8)), tmp_path / "teacher.safetensors")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with redirect_stdout(StringIO()) as printed:
        for example in examples:
            exec(compile(textwrap.dedent(example), "library.rst", "exec"), names)
    assert len(examples) >= 6
    assert names["student"].config.widths == (4, 4, 4, 4)
    assert names["images"].shape == (4, 8, 8, 3)
    assert "2 of 2" in printed.getvalue() and "| student |" in printed.getvalue()
    assert names["config"].directory == Path("build/demo")
