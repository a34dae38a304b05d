"""A hub on this machine: the parts of the Hugging Face hub's HTTP interface that a download uses."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class LocalHub:
    """Serves ``files`` as the repository ``owner/model``, its branch ``main`` at ``COMMIT``."""

    def __init__(self, files: Mapping[str, bytes], *, gated: bool = False) -> None:
        self.files, self.gated = files, gated
        #: names of the files that were downloaded
        self.fetched: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LocalHub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if self.hub.gated:
            self._refuse(403, "GatedRepo")
        elif "owner/model" not in path:
            self._refuse(404, "RepoNotFound")
        elif path in ("/api/models/owner/model", "/api/models/owner/model/revision/main"):
            siblings = [{"rfilename": name} for name in self.hub.files]
            self._send({"id": "owner/model", "sha": COMMIT, "siblings": siblings})
        elif path.startswith("/api/models/owner/model/tree/"):
            files = self.hub.files.items()
            self._send([{"type": "file", "path": n, "size": len(c), "oid": _digest(c)} for n, c in files])
        elif path.startswith("/owner/model/resolve/"):
            self._send_file(path.split("/", 5)[5])
        else:
            self._refuse(404, "RevisionNotFound")

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def _send_file(self, name: str) -> None:
        if self.command == "GET":
            self.hub.fetched.append(name)
        content = self.hub.files[name]
        self._answer(200, content, {"ETag": f'"{_digest(content)}"', "X-Repo-Commit": COMMIT})

    def _send(self, document: object) -> None:
        self._answer(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, b"{}", {"X-Error-Code": code})

    def _answer(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for header, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


def _digest(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
