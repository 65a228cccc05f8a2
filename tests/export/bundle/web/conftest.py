from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dcp_deploy.export.bundle.web.writer import write_web_page
from dcp_deploy.generators import Generator
from dcp_deploy.shipping.web import web_contents_of
from tests.run_folder import write_run


@pytest.fixture(scope="session")
def web_page(conditional: Generator, runtime_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run whose student is the class-conditional golden generator. Tests must not change it."""
    folder = tmp_path_factory.mktemp("web")
    run = write_run(folder / "faces", conditional)
    write_web_page(web_contents_of(run, scratch=folder), folder / "page")
    return folder / "page"


@pytest.fixture
def own_page(web_page: Path, tmp_path: Path) -> Path:
    """A copy of the page that a test may damage; its large files are hard links."""
    return Path(shutil.copytree(web_page, tmp_path / "page", copy_function=_link))


def _link(source: str, place: str) -> str:
    if source.endswith(".wasm"):
        Path(place).hardlink_to(source)
        return place
    return shutil.copyfile(source, place)
