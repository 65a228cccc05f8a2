"""The part of the Hugging Face Hub's HTTP interface that its client uses here, on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_right"


class HubServer:
    """Serve ``files`` of one repository, ``me/net``; take commits, whose small files come in the commit itself.

    ``refusal`` is a status, an error code and a message that answer every request from then on.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.card: dict[str, Any] = {"license": "cc-by-nc-4.0"}
        self.refusal: tuple[int, str, str] | None = None
        self.private: bool | None = None
        """Visibility asked for when the repository was made."""
        self.objects: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.exists = False
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                server.handle(self, b"")

            def do_GET(self) -> None:
                server.handle(self, b"")

            def do_POST(self) -> None:
                server.handle(self, self._body())

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)

            do_PUT = do_POST

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def handle(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        path = urlsplit(handler.path).path
        self.asked.append(f"{handler.command} {path}")
        if self.refusal is not None:
            status, code, words = self.refusal
            return self._answer(handler, status, b"", {"X-Error-Code": code, "X-Error-Message": words})
        writes = handler.command in ("POST", "PUT") and "/lfs-object/" not in path
        if writes and handler.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer(handler, 401, b'{"error": "Invalid credentials"}', {})
        if "/resolve/" in path:
            return self._file(handler, *path.partition("/resolve/")[2].split("/", 1))
        if "/lfs-object/" in path:
            self.objects[path.rsplit("/", 1)[1]] = body
            return self._answer(handler, 200, b"", {})
        return self._json(handler, path, body)

    def _json(self, handler: BaseHTTPRequestHandler, path: str, body: bytes) -> None:
        answer: dict[str, Any] = {}
        if path == "/api/repos/create":
            asked, self.exists = json.loads(body), True
            self.private = asked.get("private", asked.get("visibility") == "private")
            answer = {"url": f"{self.url}/me/net"}
        elif "/preupload/" in path:
            answer = {"files": [
                {"path": one["path"], "shouldIgnore": False,
                 "uploadMode": "lfs" if one["path"].endswith((".safetensors", ".onnx")) else "regular"}
                for one in json.loads(body)["files"]
            ]}  # fmt: skip
        elif path.endswith("/objects/batch"):
            answer = {"transfer": "basic", "objects": [
                {**one, "actions": {"upload": {"href": f"{self.url}/lfs-object/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]}  # fmt: skip
        elif "/commit/" in path:
            self._commit(body)
            answer = {"success": True, "commitOid": COMMIT, "commitUrl": f"{self.url}/me/net/commit/{COMMIT}"}
        elif path.startswith("/api/models/") and not (self.files or self.exists):
            return self._answer(handler, 404, b"", {"X-Error-Code": "RepoNotFound"})
        elif path.startswith("/api/models/"):
            answer = {"id": "me/net", "sha": COMMIT, "cardData": self.card, "siblings": [], "tags": []}
        self._answer(handler, 200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _commit(self, body: bytes) -> None:
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                self.files[value["path"]] = self.objects[value["oid"]]

    def _file(self, handler: BaseHTTPRequestHandler, revision: str, name: str) -> None:
        if revision not in ("main", "v1", COMMIT):
            return self._answer(handler, 404, b"", {"X-Error-Code": "RevisionNotFound"})
        if name not in self.files:
            return self._answer(handler, 404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        etag = hashlib.sha256(self.files[name]).hexdigest()
        self._answer(handler, 200, self.files[name], {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def _answer(self, handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]) -> None:
        handler.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            handler.send_header(key, value)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)
