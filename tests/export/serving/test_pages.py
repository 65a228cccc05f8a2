"""The web server for pages: files of the manifest, with the headers that browsers want, and nothing else."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from dcp_deploy.errors import CorruptFileError, MissingCapabilityError, UsageError
from dcp_deploy.export.integrity import WEB_PAGE, seal
from dcp_deploy.export.serving.pages import is_web_page, running_page

FACTS = {
    "kind": WEB_PAGE, "name": "tiny", "tool": "dcp-deploy 0", "runtime": "onnxruntime-web 0", "directions": {},
    "model": {"onnx": "model.onnx", "inputs": {}, "output": {}, "parity": {}}, "provenance": {},
}  # fmt: skip


@pytest.fixture
def page(tmp_path: Path) -> Path:
    folder = tmp_path / "page"
    (folder / "runtime").mkdir(parents=True)
    for name in ("index.html", "page.js", "model.onnx", "runtime/x.mjs", "runtime/x.wasm"):
        (folder / name).write_bytes(name.encode())
    seal(folder, FACTS)
    return folder


@pytest.fixture
def connection(page: Path) -> Iterator[HTTPConnection]:
    with running_page(page, host="127.0.0.1", port=0) as address:
        connection = HTTPConnection(str(urlsplit(address).netloc), timeout=10)
        yield connection
        connection.close()


def test_files_have_their_types_and_the_headers_for_threads(connection: HTTPConnection) -> None:
    types = {
        "/": "text/html; charset=utf-8", "/index.html?x=1": "text/html; charset=utf-8", "/page.js": "text/javascript",
        "/runtime/x.mjs": "text/javascript",
        "/runtime/x.wasm": "application/wasm", "/manifest.json": "application/json",
        "/model.onnx": "application/octet-stream",
    }  # fmt: skip
    for path, kind in types.items():
        connection.request("GET", path)
        answer = connection.getresponse()
        content = answer.read()
        assert (answer.status, answer.headers["Content-Type"]) == (200, kind)
        assert int(answer.headers["Content-Length"]) == len(content) > 0
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "path",
    ["/private.txt", "/../outside.txt", "/%2e%2e/outside.txt", "//etc/passwd", "/runtime/", "/runtime", "/%00", "/\\x"],
)
def test_nothing_else_is_served(page: Path, connection: HTTPConnection, path: str) -> None:
    (page / "private.txt").write_text("added later")
    (page.parent / "outside.txt").write_text("outside")
    connection.request("GET", path)
    answer = connection.getresponse()
    assert answer.status == 404
    assert b"outside" not in (content := answer.read()) and b"added" not in content


def test_head_has_no_content_and_other_methods_do_not_exist(connection: HTTPConnection) -> None:
    connection.request("HEAD", "/page.js")
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Content-Length"], answer.read()) == (200, "7", b"")
    connection.request("POST", "/page.js", b"x")
    assert connection.getresponse().status == 501


def test_a_page_that_was_altered_is_not_served(page: Path) -> None:
    (page / "page.js").write_text("other")
    with pytest.raises(CorruptFileError, match=r"page\.js"), running_page(page, host="127.0.0.1", port=0):
        pass


def test_a_port_in_use_and_an_unknown_host_are_refused(page: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(MissingCapabilityError, match="in use"), running_page(page, host="127.0.0.1", port=port):
            pass
    with (
        pytest.raises(UsageError, match="not an address of this machine"),
        running_page(page, host="192.0.2.1", port=0),
    ):
        pass


def test_a_file_that_goes_away_is_not_found(page: Path, connection: HTTPConnection) -> None:
    (page / "page.js").unlink()
    connection.request("GET", "/page.js")
    assert connection.getresponse().status == 404


def test_only_pages_are_taken_for_pages(page: Path, tmp_path: Path) -> None:
    assert is_web_page(page)
    for content in ("", "[]", "{}", '{"kind": "dcp-deploy bundle"}'):
        (tmp_path / "manifest.json").write_text(content)
        assert not is_web_page(tmp_path)
    assert not is_web_page(tmp_path / "nothing")
