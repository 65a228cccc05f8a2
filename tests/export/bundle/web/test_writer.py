"""What a page for browsers consists of, and how it is checked when it is made."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import onnx
import pytest

from dcp_deploy.errors import CorruptFileError, InputError, ParityError, UsageError
from dcp_deploy.export import load_runner
from dcp_deploy.export.bundle.web import writer
from dcp_deploy.export.bundle.web.runtime import FILES, NOTICES
from dcp_deploy.export.bundle.web.writer import write_web_page
from dcp_deploy.export.bundle.writer import read_golden
from dcp_deploy.export.integrity import check_bundle
from dcp_deploy.export.serving.pages import POLICY
from dcp_deploy.generators import Generator
from dcp_deploy.shipping.contents import contents_of
from dcp_deploy.shipping.web import web_contents_of
from tests.run_folder import write_run

ASSETS = Path(writer.__file__).parent


def test_a_page_is_a_sealed_folder_with_all_that_it_needs(web_page: Path) -> None:
    manifest = check_bundle(web_page)
    names = set(manifest["files"])
    assert manifest["kind"] == "dcp-deploy web page"
    assert {"index.html", "page.js", "model.onnx", "README.md", "directions/directions.safetensors"} <= names
    assert {f"runtime/{name}" for name in (*FILES, *NOTICES.values())} <= names
    assert sum(name.startswith("golden/generator/seed") for name in names) == 8
    assert manifest["provenance"]["licence"] == "CC BY 4.0"
    assert str(web_page.parent) not in json.dumps(manifest), "a public page does not name folders of its maker"


def test_everything_that_the_page_loads_is_in_the_folder(web_page: Path) -> None:
    for asset in [*web_page.glob("*.js"), web_page / "index.html"]:
        for name in re.findall(
            r'(?:from|import\(|href=|src=|URL\(|register\()\s*"(?:\./)?([\w./-]+\.\w+)"', asset.read_text()
        ):
            assert (web_page / name).is_file(), f"{asset.name} loads {name}"


def test_every_asset_of_the_package_is_written(web_page: Path) -> None:
    assets = {path.name for path in ASSETS.iterdir() if path.suffix not in (".py", ".md") and path.is_file()}
    assert assets == set(writer.PAGE)


def test_the_policy_is_the_same_wherever_it_is_given() -> None:
    policies = {
        (ASSETS / "index.html").read_text().split('Content-Security-Policy" content="')[1].split('"')[0],
        (ASSETS / "web_readme.md").read_text().split('Content-Security-Policy "')[1].split('"')[0],
        "".join(re.findall(r'"(default.*?|img.*?)"', (ASSETS / "isolation.js").read_text())),
        POLICY,
    }
    assert len(policies) == 1, policies


def test_the_model_takes_z_psi_class_and_strengths_without_functions(web_page: Path) -> None:
    model = onnx.load(web_page / "model.onnx")
    assert [value.name for value in model.graph.input] == ["z", "psi", "c", "strengths"]
    assert not model.functions and {entry.domain for entry in model.opset_import} == {""}
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert (facts["licence"], facts["inputs"]) == ("CC BY 4.0", "z")
    assert facts["directions"] == "pc0, pc1, pc2, pc3, pc4, pc5"


def test_the_same_run_gives_the_same_page(web_page: Path, conditional: Generator, tmp_path: Path) -> None:
    run = write_run(tmp_path / "faces", conditional)
    manifest = write_web_page(web_contents_of(run, scratch=tmp_path), tmp_path / "again.tar.zst")
    assert manifest["sha256"] == check_bundle(web_page)["sha256"] == check_bundle(tmp_path / "again.tar.zst")["sha256"]


def test_an_onnx_file_is_used_as_it_is(uint8_onnx: Path, runtime_cache: Path, tmp_path: Path) -> None:
    manifest = write_web_page(contents_of(uint8_onnx), tmp_path / "page")
    assert (tmp_path / "page" / "model.onnx").read_bytes() == uint8_onnx.read_bytes()
    assert manifest["directions"] == {} and "strengths" not in manifest["model"]["inputs"]


def test_a_file_with_float_images_is_refused(float_onnx: Path, runtime_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="returns float32 images"):
        write_web_page(contents_of(float_onnx), tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_a_model_with_other_images_is_not_published(
    uint8_onnx: Path, conditional: Generator, runtime_cache: Path, tmp_path: Path
) -> None:
    contents = contents_of(uint8_onnx)
    other = dataclasses.replace(
        load_runner(conditional), draw=lambda z, psi, c: load_runner(conditional).draw(-z, psi, c)
    )
    models = {"generator": dataclasses.replace(contents.models["generator"], reference=other)}
    with pytest.raises(ParityError):
        write_web_page(dataclasses.replace(contents, models=models), tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_a_folder_with_other_things_is_not_replaced(uint8_onnx: Path, runtime_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="other things"):
        write_web_page(contents_of(uint8_onnx), tmp_path / "page")
    assert (tmp_path / "page" / "thesis.txt").read_text() == "mine"


def test_an_altered_page_is_found(own_page: Path) -> None:
    with (own_page / "page.js").open("a") as file:
        file.write("// more\n")
    with pytest.raises(CorruptFileError, match=r"page\.js was altered"):
        check_bundle(own_page)


@pytest.mark.parametrize("change", ["kind", "model", "runtime"])
def test_a_manifest_of_another_form_is_refused(own_page: Path, change: str) -> None:
    import hashlib

    manifest = json.loads((own_page / "manifest.json").read_text())
    del manifest[change]
    (own_page / "manifest.json").write_text(json.dumps(manifest))
    digest = hashlib.sha256((own_page / "manifest.json").read_bytes()).hexdigest()
    (own_page / "manifest.sha256").write_text(f"{digest}  manifest.json\n")
    with pytest.raises(CorruptFileError, match=change):
        check_bundle(own_page)


def test_programs_for_bundles_say_that_it_is_a_page(web_page: Path) -> None:
    for reader in (load_runner, lambda folder: read_golden(folder, "generator")):
        with pytest.raises(UsageError, match="is a page for browsers"):
            reader(web_page)


def test_a_page_replaces_an_earlier_one(web_page: Path, uint8_onnx: Path, tmp_path: Path) -> None:
    shutil.copytree(web_page, tmp_path / "page")
    assert write_web_page(contents_of(uint8_onnx), tmp_path / "page")["directions"] == {}
