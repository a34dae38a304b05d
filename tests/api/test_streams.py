"""Many streams on few threads, and streams whose Redis dies under them: with the real server."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import httpx
import pytest

from shared.db.engine import Database
from shared.jobs.store import JobStore
from shared.settings import Settings
from tests.servers import Qanvas, Valkey, free_port, wait_until

pytestmark = [
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
    pytest.mark.slow,
    pytest.mark.chaos,
]

BODY = {"model": "fake", "input": {"prompt": "a red apple"}}
STREAMS = 30


class Stream:
    """A client that follows a job, or waits for it, over a socket of its own."""

    def __init__(self, port: int, job_id: str, *, what: str = "/events", after: str | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        resume = "" if after is None else f"Last-Event-ID: {after}\r\n"
        self.socket.sendall(
            f"GET /v1/jobs/{job_id}{what} HTTP/1.1\r\nHost: 127.0.0.1\r\n{resume}\r\n".encode()
        )
        self.text = ""

    def until(self, word: str, seconds: float = 60.0) -> str:
        """Everything that has come, once ``word`` has."""
        deadline = time.monotonic() + seconds
        while word not in self.text:
            assert time.monotonic() < deadline, f"no {word!r} in {self.text}"
            piece = self.socket.recv(65536).decode()
            assert piece, f"the stream ended without {word!r}: {self.text}"
            self.text += piece
        return self.text


@pytest.fixture
def server(settings: Settings, qanvas: Callable[..., Qanvas]) -> Settings:
    changed = settings.with_(port=free_port(), api_threads=2, api_streams=2 * STREAMS)
    process = qanvas("api", settings=changed)

    def answers() -> bool:
        assert process.process.poll() is None, process.said()
        try:
            return httpx.get(f"{url(changed)}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    wait_until(answers, 120, what="the server")
    return changed


def url(settings: Settings) -> str:
    return f"http://127.0.0.1:{settings.port}"


def submit(settings: Settings) -> str:
    answer = httpx.post(f"{url(settings)}/v1/jobs", json=BODY, timeout=30)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def test_streams_take_no_thread_from_those_who_do_not_wait(server: Settings) -> None:
    job_id = submit(server)
    streams = [Stream(server.port, job_id) for _ in range(STREAMS)]
    for stream in streams:
        stream.until("event: status")
    submit(server)
    refused = httpx.get(f"{url(server)}/v1/jobs/{job_id}/events", timeout=30)
    assert refused.status_code == 429 and refused.headers["Retry-After"]
    assert httpx.post(f"{url(server)}/v1/jobs/{job_id}/cancel", timeout=30).status_code == 202
    for stream in streams:
        assert '"status":"canceled"' in stream.until("event: done")


def test_those_who_wait_take_no_thread_either(server: Settings) -> None:
    job_id = submit(server)
    waiting = [Stream(server.port, job_id, what="?wait=50") for _ in range(6)]
    assert httpx.post(f"{url(server)}/v1/jobs/{job_id}/cancel", timeout=30).status_code == 202
    for one in waiting:
        one.until('"status":"canceled"')


def test_a_stream_ends_with_done_though_redis_was_killed_and_flushed_meanwhile(
    server: Settings, database: Database, valkey: Valkey
) -> None:
    job_id, other = submit(server), submit(server)
    before = Stream(server.port, job_id)
    before.until("event: status")
    valkey.kill()
    JobStore(database).cancel(job_id)  # nobody can announce it
    assert '"status":"canceled"' in before.until("event: done")
    during = Stream(server.port, other)
    during.until("event: status")
    valkey.start()
    valkey.flush()
    JobStore(database).cancel(other)
    assert '"status":"canceled"' in during.until("event: done")
    again = Stream(server.port, other, after=during.text.split("id: ")[1].split("\n")[0])
    assert '"status":"canceled"' in again.until("event: done")
