"""The two systems that ``bench.peers`` compares, as their clients see them: from a request to a PNG."""

from __future__ import annotations

import http.client
import json
import shutil
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.drawing import starter_image
from bench.kiln_systems import SLOTS
from bench.subjects import QanvasSubject, answers
from cli.embedded import children
from tests.servers import Valkey, free_port, wait_until

_ROOT = Path(__file__).parents[1]
#: seconds that a picture may take, and that a system may take to be there
_PATIENCE = 300.0


@dataclass(frozen=True, slots=True)
class Request:
    prompt: str
    seed: int
    steps: int


class Client(ABC):
    """One client with one connection, which it keeps."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)

    @abstractmethod
    def draw(self, request: Request) -> bytes:
        """The PNG of a picture, once it is there. Raises RuntimeError where the answer is another one."""

    def close(self) -> None:
        self._connection.close()

    def _ask(self, method: str, path: str, body: Any = None, **headers: str) -> bytes:
        content = None if body is None else json.dumps(body).encode()
        self._connection.request(method, path, content, {"Content-Type": "application/json", **headers})
        answer = self._connection.getresponse()
        received = answer.read()
        if answer.status not in (200, 202):
            raise RuntimeError(f"{method} {path} was answered {answer.status}: {received[:500]!r}")
        return received


class LitServeClient(Client):
    """The picture is the answer."""

    def draw(self, request: Request) -> bytes:
        given = {"prompt": request.prompt, "seed": request.seed, "steps": request.steps}
        return self._ask("POST", "/predict", given)


class QanvasClient(Client):
    """Submits a job and waits for it in the same request; the picture is fetched by a second one."""

    def draw(self, request: Request) -> bytes:
        given = {"prompt": request.prompt, "seed": request.seed, "steps": request.steps}
        job = {"model": "starter-image", "input": given}
        ended = json.loads(self._ask("POST", "/v1/jobs", job, Prefer="wait=60"))
        while ended["status"] in ("queued", "running"):
            ended = json.loads(self._ask("GET", f"/v1/jobs/{ended['id']}?wait=60"))
        if ended["status"] != "succeeded":
            raise RuntimeError(f"{ended['id']} {ended['status']}: {ended['error']}")
        return self._ask("GET", ended["outputs"][0]["url"])


@dataclass(frozen=True, slots=True)
class Peer:
    """A system that runs."""

    name: str
    port: int
    kind: type[Client]

    @contextmanager
    def client(self) -> Iterator[Client]:
        made = self.kind(self.port)
        try:
            yield made
        finally:
            made.close()


@contextmanager
def litserve() -> Iterator[Peer]:
    """LitServe with one worker on the CPU."""
    _, weights = starter_image()
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="qanvas-litserve-") as folder:
        log = Path(folder) / "litserve.txt"
        command = [sys.executable, "-m", "bench.litserve_peer", str(port), str(weights)]
        process = children.start(command, log=log, cwd=_ROOT)
        try:
            wait_until(lambda: answers(port, "/health"), _PATIENCE, what=f"LitServe: {children.tail(log)}")
            yield Peer("LitServe", port, LitServeClient)
        finally:
            children.stop([process], grace=10)


@contextmanager
def qanvas() -> Iterator[Peer]:
    """`qanvas api` and one `qanvas worker` on the CPU, with SQLite and Valkey."""
    folder = Path(tempfile.mkdtemp(prefix="qanvas-peers-"))
    (folder / "valkey").mkdir()
    valkey = Valkey(folder / "valkey").start()
    try:
        url = f"sqlite:///{folder / 'jobs.db'}"
        subject = QanvasSubject("Qanvas", folder, url, valkey.url, [], slots=SLOTS)
        with subject.server(), subject.worker():
            yield Peer("Qanvas", subject.settings.port, QanvasClient)
    finally:
        valkey.stop()
        shutil.rmtree(folder, ignore_errors=True)
