"""A real HTTP server on loopback that answers as a test says and remembers what it was sent."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.servers import wait_until


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Answer:
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    #: each piece is sent when the one before is
    body: Iterator[bytes] | bytes = b""


#: from the number of the request, counted from 0, and the request to the answer
Script = Callable[[int, Request], Answer]


@dataclass
class Receiver:
    url: str
    requests: list[Request] = field(default_factory=list)

    def wait_for(self, count: int, seconds: float = 60.0) -> list[Request]:
        """The requests, once there are so many."""
        wait_until(lambda: len(self.requests) >= count, seconds, what=f"{count} requests at {self.url}")
        return self.requests


@contextmanager
def receiving(
    script: Script = lambda number, request: Answer(), *, tls: ssl.SSLContext | None = None
) -> Iterator[Receiver]:
    """A server that lives for the block. What hangs in a script must end with the test."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, self.path, headers, self.rfile.read(length))
            with lock:
                number = len(receiver.requests)
                receiver.requests.append(request)
            answer = script(number, request)
            self.close_connection = True
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if isinstance(answer.body, bytes) and "Content-Length" not in answer.headers:
                self.send_header("Content-Length", str(len(answer.body)))
            self.send_header("Connection", "close")
            self.end_headers()
            try:
                for piece in (answer.body,) if isinstance(answer.body, bytes) else answer.body:
                    self.wfile.write(piece)
            except OSError:
                return  # the other side has left, as some tests want

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def do_PUT(self) -> None:
            self._answer()

        def do_DELETE(self) -> None:
            self._answer()

        def log_message(self, *_: object) -> None:
            """Nothing: tests look at ``requests``."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    scheme = "http" if tls is None else "https"
    receiver = Receiver(f"{scheme}://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
