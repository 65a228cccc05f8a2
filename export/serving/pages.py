"""A small web server for a page for browsers, on this machine: its files, with the headers that browsers want."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import SOCK_STREAM, getaddrinfo
from socketserver import TCPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

from ...files import read_json
from ..integrity import MANIFEST, SEAL, WEB_PAGE, check_bundle
from .ports import check_ports
from .request_filter import url_host

POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob:; worker-src 'self'; base-uri 'none'; form-action 'none'"
)
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
TYPES = {
    ".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript", ".mjs": "text/javascript",
    ".json": "application/json", ".wasm": "application/wasm", ".md": "text/plain; charset=utf-8",
    ".txt": "text/plain; charset=utf-8", ".svg": "image/svg+xml", ".png": "image/png",
}  # fmt: skip
IDLE_SECONDS = 30  # after which a silent connection is closed
POLL_SECONDS = 0.05  # between two looks whether serving shall end


def is_web_page(folder: Path) -> bool:
    """Return whether a folder says of itself that it holds a page for browsers; nothing else in it is checked."""
    try:
        return bool(read_json(folder / MANIFEST)["kind"] == WEB_PAGE)
    except (OSError, ValueError, KeyError, TypeError):
        return False


@contextmanager
def running_page(folder: Path, *, host: str, port: int) -> Iterator[str]:
    """Serve the files that the page's manifest lists, and yield the address. ``port`` 0 takes a free one.

    Raises MissingCapabilityError for a port in use, UsageError for a host that is not an address of this machine, and
    what :func:`~..integrity.check_bundle` does.
    """
    names = {MANIFEST, SEAL, *check_bundle(folder)["files"]}
    check_ports(host, (port,))
    with _Server((host, port), partial(_Handler, folder, frozenset(names))) as server:
        thread = Thread(target=server.serve_forever, args=(POLL_SECONDS,), daemon=True)
        thread.start()
        try:
            yield f"http://{url_host(host)}:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: Callable[..., BaseHTTPRequestHandler]) -> None:
        self.address_family = getaddrinfo(*address, type=SOCK_STREAM)[0][0]
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Bind without asking for the name of this machine, which may take seconds."""
        TCPServer.server_bind(self)


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD for files by their names in the manifest; everything else does not exist."""

    protocol_version = "HTTP/1.1"
    server_version = "dcp-deploy"
    sys_version = ""
    timeout = IDLE_SECONDS

    def __init__(self, folder: Path, names: frozenset[str], *connection: Any) -> None:
        self.folder, self.names = folder, names
        super().__init__(*connection)  # which answers

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def _answer(self, *, with_content: bool) -> None:
        name = unquote(urlsplit(self.path).path).removeprefix("/") or "index.html"
        if name not in self.names:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        try:
            content = (self.folder / name).read_bytes()
        except OSError:  # removed since the page was checked
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", TYPES.get(Path(name).suffix, "application/octet-stream"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_content:
            self.wfile.write(content)

    def end_headers(self) -> None:
        for header, value in HEADERS.items():
            self.send_header(header, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet: the terminal shows the address alone."""
