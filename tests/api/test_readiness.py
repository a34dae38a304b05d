"""/readyz tells the truth within a second: while parts hang, and while every thread waits for them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import httpx
import psutil
import pytest

from shared.settings import Settings
from tests.api.crowds import Server, health
from tests.servers import Postgres, Qanvas, Valkey, free_port, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.chaos]


@pytest.fixture
def server(settings: Settings, qanvas: Callable[..., Qanvas]) -> Server:
    changed = settings.with_(port=free_port(), api_threads=4, api_streams=8)
    return Server(qanvas("api", settings=changed), changed)


@contextlib.contextmanager
def stopped(postgres: Postgres) -> Iterator[None]:
    """The database server and all its processes are there, and do nothing."""
    assert postgres.process is not None
    main = psutil.Process(postgres.process.pid)
    suspended = [main, *main.children(recursive=True)]
    for process in suspended:
        process.suspend()
    try:
        yield
    finally:
        for process in suspended:
            process.resume()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_database_that_hangs_is_named_in_time_while_all_requests_wait_for_it(
    server: Server, postgres: Postgres
) -> None:
    def ask() -> None:
        with contextlib.suppress(httpx.TransportError), server.client() as client:
            client.get("/v1/jobs")

    waiting = [threading.Thread(target=ask) for _ in range(40)]
    with stopped(postgres):
        for thread in waiting:
            thread.start()
        wait_until(lambda: health(server, "/readyz")[1].status_code == 503, 30, what="the trouble to be told")
        for _ in range(3):
            took, answer = health(server, "/readyz")
            assert answer.status_code == 503 and answer.headers["Retry-After"]
            assert answer.json()["detail"] == "the database does not answer in time"
            assert took < 1.0
        took, answer = health(server, "/healthz")
        assert answer.status_code == 200 and took < 1.0
    for thread in waiting:
        thread.join()
    wait_until(server.is_ready, 60, what="the server to be ready again")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_redis_that_hangs_is_named_in_time_and_jobs_are_accepted(server: Server, valkey: Valkey) -> None:
    def is_ready() -> bool:
        return health(server, "/readyz")[1].json() == {"status": "ready"}

    valkey.pause()
    try:
        wait_until(lambda: not is_ready(), 30, what="the trouble to be told")
        took, answer = health(server, "/readyz")
        assert answer.status_code == 200 and answer.json()["status"] == "degraded" and took < 1.0
        assert answer.json()["degraded"][0].startswith("Redis does not answer")
        server.submit()
    finally:
        valkey.resume()
    wait_until(is_ready, 60, what="the server to be ready again")
