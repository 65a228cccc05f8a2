"""A server of one file on this machine, which can break off, stall and lie."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np


class FileServer:
    """Serve one file on 127.0.0.1. Each request is answered by the next entry of ``script``, the last one repeats.

    An entry takes the request's handler and usually calls :meth:`send` or :meth:`answer` with it. ``asked`` keeps the
    headers of every request, ``sent`` counts the bytes of the file that were written.
    """

    def __init__(self, certificate: Path | None = None) -> None:
        self.body = b"\x80" + np.random.default_rng(0).bytes(299_999)
        self.etag: str | None = '"one"'
        self.modified: str | None = None
        self.script: list[Callable[[BaseHTTPRequestHandler], None]] = [self.send]
        self.asked: list[dict[str, str]] = []
        self.sent = 0
        self.over = threading.Event()
        """Set when the test ends: stalled answers go on."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.asked.append({**dict(self.headers.items()), "path": self.path})
                step = server.script[0]
                if len(server.script) > 1:
                    server.script.pop(0)
                try:
                    step(self)
                except OSError:  # the client closed the connection
                    self.close_connection = True

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.http.socket = context.wrap_socket(self.http.socket, server_side=True)
            self.scheme = "https"
        self.url = f"{self.scheme}://127.0.0.1:{self.http.server_port}/teacher.pkl"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.over.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def send(
        self,
        handler: BaseHTTPRequestHandler,
        *,
        stop: int | None = None,
        stall: float = 0.0,
        ranges: bool = True,
        length: int | None = None,
        send_length: bool = True,
        **headers: str,
    ) -> None:
        """Send the file, or the requested range, as a good server does; each argument spoils one thing.

        After the first ``stop`` bytes the answer ends, or pauses for ``stall`` seconds.
        """
        start, asked = 0, handler.headers.get("Range")
        version = handler.headers.get("If-Range")
        if ranges and asked and version in (None, self.etag, self.modified):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        if start and start >= len(self.body):
            return self.answer(handler, 416, content_range=f"bytes */{len(self.body)}")
        content = self.body[start:]
        handler.send_response(206 if start else 200)
        if start:
            headers["content_range"] = f"bytes {start}-{len(self.body) - 1}/{len(self.body)}"
        if send_length:
            headers["content_length"] = str(len(content) if length is None else length)
        described = {"etag": self.etag, "last_modified": self.modified, "content_type": "application/octet-stream"}
        for name, value in {**described, **headers}.items():
            if value is not None:
                handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Connection", "close")
        handler.close_connection = True
        handler.end_headers()
        self._write(handler, content[:stop])
        if stall:
            self.over.wait(stall)
            self._write(handler, content[stop:])

    def _write(self, handler: BaseHTTPRequestHandler, content: bytes) -> None:
        for begin in range(0, len(content), 10_000):
            block = content[begin : begin + 10_000]
            self.sent += len(block)  # before: who has received a block may ask at once
            handler.wfile.write(block)
            handler.wfile.flush()

    def answer(self, handler: BaseHTTPRequestHandler, status: int, body: str = "", **headers: str) -> None:
        """Send something other than the file."""
        handler.send_response(status)
        for name, value in {"content_length": str(len(body.encode())), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body.encode())
