"""Clients that take what they can get, and the others who are to be served all the same."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import psutil

from shared.accounts.keys import KeyStore
from shared.db.engine import Database
from shared.settings import Settings
from tests.servers import Qanvas, wait_until

#: another address of the machine itself, for those who are not the crowd
ELSEWHERE = "127.0.0.2"
BODY = {"model": "fake", "input": {"prompt": "a red apple"}}


class Server:
    """A running `qanvas api` with keys, of which the crowd has the first, and others have the second."""

    def __init__(self, process: Qanvas, settings: Settings, *, keys: int = 2) -> None:
        self.process, self.settings = process, settings
        self.keys: list[str] = []
        for _ in range(keys):
            self.new_key()
        wait_until(self.is_ready, 120, what=f"the server: {process.said()}")

    def is_ready(self) -> bool:
        assert self.process.process.poll() is None, self.process.said()
        try:
            return httpx.get(f"{self.url}/readyz", timeout=30).status_code == 200
        except httpx.TransportError:
            return False

    def new_key(self) -> int:
        """The number of another key, of a tenant of its own."""
        name = f"tenant-{len(self.keys)}"
        _, secret = KeyStore(Database(self.settings.database_url)).create(name, tenant=name)
        self.keys.append(secret)
        return len(self.keys) - 1

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.port}"

    def client(self, key: int = 1, address: str = ELSEWHERE) -> httpx.Client:
        """A client with a key of its own that comes from ``address``."""
        return httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.keys[key]}"} if self.keys else {},
            transport=httpx.HTTPTransport(local_address=address),
            timeout=30,
        )

    def submit(self, key: int = 1) -> dict[str, Any]:
        with self.client(key) as client:
            answer = client.post("/v1/jobs", json=BODY)
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    def connect(self, *, buffer: int = 0) -> socket.socket:
        """A connection of the crowd; with ``buffer`` the kernel keeps so few bytes for it to read."""
        connection = socket.socket()
        if buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.settimeout(30)
        connection.connect(("127.0.0.1", self.settings.port))
        return connection

    def memory(self) -> int:
        """Bytes that its processes hold of their own."""
        held = 0
        for process in self.process.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                held += process.memory_info().rss
        return held


def head(server: Server, line: str, *headers: str, key: int | None = 0) -> bytes:
    """A request's head with the crowd's key, or with none."""
    lines = [f"{line} HTTP/1.1", "Host: 127.0.0.1", *headers]
    if key is not None:
        lines.append(f"Authorization: Bearer {server.keys[key]}")
    return "\r\n".join([*lines, "", ""]).encode()


def assert_others_are_served(server: Server, *addresses: str) -> None:
    """Somebody else submits and looks at a job, and the health of the server is told within a second."""
    for address in addresses or (ELSEWHERE, "127.0.0.1"):
        for _ in range(3):
            with server.client(address=address) as client:
                job = client.post("/v1/jobs", json=BODY)
                assert job.status_code == 202, job.text
                assert client.get(job.json()["urls"]["self"]).json()["status"] == "queued"
    for path in ("/healthz", "/readyz"):
        took, answer = health(server, path)
        assert answer.status_code == 200 and took < 1.0, f"{path}: {answer.text} after {took:.2f} s"


def health(server: Server, path: str) -> tuple[float, httpx.Response]:
    """The shortest of three tries: the machine may be busy with something else."""
    tries = []
    for _ in range(3):
        began = time.monotonic()
        with server.client() as client:
            answer = client.get(path)
        tries.append((time.monotonic() - began, answer))
    return min(tries, key=lambda one: one[0])


@contextlib.contextmanager
def dripping(connections: Sequence[socket.socket], seconds: float = 0.2) -> Iterator[None]:
    """While the block runs, each sends another byte every so often, for as long as it is let."""
    stopped = threading.Event()

    def drip() -> None:
        while not stopped.wait(seconds):
            for connection in connections:
                with contextlib.suppress(OSError):
                    connection.send(b"x", socket.MSG_DONTWAIT)

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def answers(connections: Sequence[socket.socket]) -> list[bytes]:
    """What each is told before the server closes it; fails where it does not."""
    return [told(connection) for connection in connections]


def told(connection: socket.socket) -> bytes:
    found = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            found += piece
    return found


def status_of(answer: bytes) -> int:
    """The status of an answer, 0 where there is none."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0
