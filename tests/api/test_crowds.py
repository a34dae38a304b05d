"""Nobody takes all connections: one crowd after another at the real server, and others who are served."""

from __future__ import annotations

import contextlib
import resource
import select
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from shared.messaging.events import Events
from shared.settings import Settings
from tests.api.crowds import (
    Server,
    answers,
    assert_others_are_served,
    dripping,
    head,
    status_of,
)
from tests.servers import Qanvas, Valkey, drill_settings, free_port, wait_until

pytestmark = pytest.mark.slow
one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

#: seconds for which the small server waits for a client
PATIENCE = 1.5
#: event streams and waiting requests of the small server; one key has half of them
STREAMS = 8
#: threads that it has for clients to be waited for and everything else, and more than those
MANY = 100
#: more connections than it has
MORE = 1200


@pytest.fixture(scope="module")
def small(
    tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path, valkey: Valkey
) -> Iterator[Server]:
    """A server with few threads, for all tests that leave it as it is: starting one takes longer than any."""
    folder = tmp_path_factory.mktemp("small")
    url = f"sqlite:///{shutil.copyfile(migrated_sqlite, folder / 'qanvas.db')}"
    settings = _with_few_threads(drill_settings(folder, url, valkey.url))
    process = Qanvas(["api"], settings, folder / "api.out")
    yield Server(process, settings)
    process.clean()


def _with_few_threads(settings: Settings) -> Settings:
    return settings.with_(port=free_port(), api_threads=2, api_streams=STREAMS, api_client_seconds=PATIENCE)


@pytest.fixture
def crowd() -> Iterator[contextlib.ExitStack]:
    """Closes what is put into it."""
    with contextlib.ExitStack() as stack:
        yield stack


def many(crowd: contextlib.ExitStack, server: Server, count: int = MANY, **how: Any) -> list[socket.socket]:
    return [crowd.enter_context(server.connect(**how)) for _ in range(count)]


def say(connections: list[socket.socket], data: bytes) -> None:
    for connection in connections:
        with contextlib.suppress(OSError):  # the server has closed it to have room
            connection.sendall(data)


def test_silent_connections_keep_nobody_out(small: Server, crowd: contextlib.ExitStack) -> None:
    before = small.memory()
    for _ in range(3):
        silent = many(crowd, small, MORE)
        assert_others_are_served(small)
    assert small.memory() - before < 100 << 20
    assert answers(silent) == [b""] * MORE, "a silent connection is closed in time"
    assert_others_are_served(small)


def test_connections_that_send_heads_byte_by_byte_keep_nobody_out(
    small: Server, crowd: contextlib.ExitStack
) -> None:
    slow = many(crowd, small, MORE)
    say(slow, b"GET /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: ")
    with dripping(slow):
        assert_others_are_served(small)
        found = [status_of(answer) for answer in answers(slow)]
    assert set(found) <= {0, 408} and 408 in found
    assert_others_are_served(small)


@pytest.mark.parametrize("key", [0, None], ids=["with a key", "without"])
@pytest.mark.parametrize("drips", [True, False], ids=["dripping", "silent"])
def test_bodies_that_do_not_come_keep_nobody_out(
    small: Server, crowd: contextlib.ExitStack, key: int | None, drips: bool
) -> None:
    heads = (
        head(small, "POST /v1/jobs", "Content-Type: application/json", "Content-Length: 500", key=key),
        head(small, "POST /v1/jobs", "Content-Type: application/json", "Content-Length: 90000", key=key),
        head(small, "POST /v1/jobs", "Content-Type: application/json", "Transfer-Encoding: chunked", key=key),
        head(
            small,
            "POST /v1/files",
            "Content-Type: multipart/form-data; boundary=x",
            "Content-Length: 900000",
            key=key,
        ),
    )
    slow = []
    for one in heads:
        slow += many(crowd, small, 30)
        say(slow[-30:], one + (b"1\r\n" if b"chunked" in one else b"{"))
    with dripping(slow) if drips else contextlib.nullcontext():
        assert_others_are_served(small)
        found = {status_of(answer) for answer in answers(slow)}
    # waited for in vain, one too many to be waited for, no key, no chunk
    assert found <= {408, 429, 401, 400}
    assert (408 if key is not None else 401) in found
    assert_others_are_served(small)


def test_a_body_that_comes_steadily_is_waited_for_longer_than_a_pause_may_be(
    small: Server, crowd: contextlib.ExitStack
) -> None:
    [slow] = many(crowd, small, 1)
    content = b'{"model": "fake", "input": {"prompt": "apple"}}'.ljust(20_000)
    say([slow], head(small, "POST /v1/jobs", "Content-Type: application/json", "Content-Length: 20000"))
    for index in range(0, len(content), 2000):
        slow.sendall(content[index : index + 2000])
        time.sleep(PATIENCE / 5)
    assert slow.recv(65536).startswith(b"HTTP/1.1 202")


def test_connections_that_stay_idle_after_a_request_keep_nobody_out(
    small: Server, crowd: contextlib.ExitStack
) -> None:
    idle = []
    for _ in range(MANY):
        idle += many(crowd, small, 1)
        idle[-1].sendall(head(small, "GET /v1/jobs"))
        assert idle[-1].recv(65536).startswith(b"HTTP/1.1 200")
    assert_others_are_served(small)
    answers(idle)  # they are closed in the end
    assert_others_are_served(small)


def test_one_key_gets_half_of_the_streams_and_another_gets_one(
    small: Server, crowd: contextlib.ExitStack
) -> None:
    greedy = small.new_key()
    job, other = small.submit(greedy), small.submit(1)
    readers = many(crowd, small, STREAMS)
    for reader in readers:
        reader.sendall(head(small, f"GET {job['urls']['events']}", key=greedy))
    begun = [reader.recv(65536) for reader in readers]
    assert sorted(map(status_of, begun)) == [200] * (STREAMS // 2) + [429] * (STREAMS // 2)
    assert all(b"Retry-After: " in answer for answer in begun if status_of(answer) == 429)
    assert_others_are_served(small)
    with small.client() as client, client.stream("GET", other["urls"]["events"]) as answer:
        assert answer.status_code == 200
    for reader in readers:
        reader.close()
    wait_until(lambda: _gets_a_stream(small, greedy, job), 60, what="a place of a reader who left")


def test_readers_who_take_nothing_of_their_streams_lose_them(
    small: Server, crowd: contextlib.ExitStack
) -> None:
    greedy = small.new_key()
    job = small.submit(greedy)
    readers = many(crowd, small, STREAMS // 2, buffer=4096)
    say(readers, head(small, f"GET {job['urls']['events']}", key=greedy))
    events = Events(small.settings.redis_url)
    for _ in range(60):
        events.publish(job["id"], "token", {"text": "x" * 200_000})
    assert_others_are_served(small)
    wait_until(lambda: _gets_a_stream(small, greedy, job), 60, what="a place of a reader who takes nothing")
    events.close()


def _gets_a_stream(server: Server, key: int, job: dict[str, Any]) -> bool:
    with server.client(key) as client, client.stream("GET", job["urls"]["events"]) as answer:
        return answer.status_code == 200


def test_one_key_gets_half_of_the_waits_and_another_waits_all_the_same(
    small: Server, crowd: contextlib.ExitStack
) -> None:
    greedy = small.new_key()
    job, other = small.submit(greedy), small.submit(1)
    waiting = many(crowd, small, STREAMS)
    say(waiting, head(small, f"GET {job['urls']['self']}?wait=60", key=greedy))
    wait_until(lambda: len(_answered(waiting)) >= STREAMS // 2, 30, what="answers to those beyond its half")
    assert_others_are_served(small)
    assert len(_answered(waiting)) == STREAMS // 2
    found: list[httpx.Response] = []

    def wait() -> None:
        with small.client() as client:
            found.append(client.get(f"{other['urls']['self']}?wait=30"))

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.5)
    with small.client() as client:
        client.post(other["urls"]["cancel"])
    thread.join()
    assert found[0].json()["status"] == "canceled"
    for connection in waiting:
        connection.close()
    wait_until(lambda: _waits(small, greedy, job), 60, what="a place of somebody who left")


def _waits(server: Server, key: int, job: dict[str, Any]) -> bool:
    """Whether the key has a place to wait in; without one it is answered at once."""
    began = time.monotonic()
    with server.client(key) as client:
        client.get(f"{job['urls']['self']}?wait=1")
    return time.monotonic() - began >= 1.0


def _answered(connections: list[socket.socket]) -> list[socket.socket]:
    return select.select(connections, [], [], 0)[0]


def test_downloads_that_nobody_reads_keep_nobody_out_and_are_broken_off(
    small: Server, crowd: contextlib.ExitStack
) -> None:
    content = bytes(12 << 20)
    with small.client(0) as client:
        file = client.post("/v1/files", files={"file": ("a", content)}).json()
    before = small.memory()
    readers = many(crowd, small, 30, buffer=4096)
    say(readers, head(small, f"GET /v1/files/{file['id']}/content"))
    assert_others_are_served(small)
    assert small.memory() - before < 100 << 20
    time.sleep(2 * PATIENCE)
    assert_others_are_served(small)
    assert all(len(answer) < len(content) for answer in answers(readers))


def test_answers_without_a_key_that_nobody_reads_keep_nobody_out(
    small: Server, crowd: contextlib.ExitStack
) -> None:
    asked = head(small, "GET /openapi.json", key=None) * 100
    readers = many(crowd, small, 100, buffer=4096)
    say(readers, asked)
    assert_others_are_served(small)
    time.sleep(2 * PATIENCE)
    assert_others_are_served(small)


def test_a_flood_of_requests_without_a_key_is_answered_or_refused_with_a_time_to_come_back(
    small: Server, crowd: contextlib.ExitStack
) -> None:
    flood = many(crowd, small, 100)
    say(flood, head(small, "GET /v1/jobs", "Connection: close", key=None))
    found = answers(flood)
    assert {status_of(answer) for answer in found} <= {401, 503, 0}
    assert all(b"Retry-After: " in answer for answer in found if status_of(answer) == 503)
    assert_others_are_served(small)


@one_database
def test_without_keys_one_address_gets_half_of_the_streams_and_another_gets_one(
    settings: Settings, qanvas: Callable[..., Qanvas], crowd: contextlib.ExitStack
) -> None:
    changed = _with_few_threads(settings)
    server = Server(qanvas("api", settings=changed), changed, keys=0)
    job = server.submit()
    readers = many(crowd, server, STREAMS)
    say(readers, head(server, f"GET {job['urls']['events']}", key=None))
    statuses = sorted(status_of(reader.recv(65536)) for reader in readers)
    assert statuses == [200] * (STREAMS // 2) + [429] * (STREAMS // 2)
    assert_others_are_served(server)
    with server.client() as client, client.stream("GET", job["urls"]["events"]) as answer:
        assert answer.status_code == 200


@one_database
def test_it_holds_for_several_processes(settings: Settings, qanvas: Callable[..., Qanvas]) -> None:
    changed = _with_few_threads(settings)
    server = Server(qanvas("api", "--workers", "2", settings=changed), changed)
    with contextlib.ExitStack() as crowd:
        slow = many(crowd, server, 2 * MORE)
        say(slow[::2], head(server, "POST /v1/jobs", "Content-Length: 90000"))
        for _ in range(4):
            assert_others_are_served(server)
    assert_others_are_served(server)


@one_database
def test_it_holds_as_the_server_is_set_by_default(settings: Settings, qanvas: Callable[..., Qanvas]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    changed = settings.with_(port=free_port())
    server = Server(qanvas("api", settings=changed), changed)
    try:
        with contextlib.ExitStack() as crowd:
            before = server.memory()
            slow = many(crowd, server, min(4500, hard - 500))
            say(slow[::2], b"GET / HTTP/1.1\r\nHost: ")
            assert_others_are_served(server)
            assert server.memory() - before < 200 << 20
        assert_others_are_served(server)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@one_database
def test_a_server_that_may_open_few_files_serves_with_what_it_has(settings: Settings, tmp_path: Path) -> None:
    changed = settings.with_(port=free_port())
    few = ("sh", "-c", 'ulimit -n 160; exec "$@"', "sh")
    process = Qanvas(["api"], changed, tmp_path / "few.out", under=few)
    try:
        server = Server(process, changed)
        with contextlib.ExitStack() as crowd:
            many(crowd, server, 2 * MANY)
            assert_others_are_served(server)
        assert_others_are_served(server)
        assert "raise the hard limit" in process.said() and "Traceback" not in process.said()
    finally:
        process.clean()


@one_database
def test_a_server_that_runs_out_of_files_goes_on_accepting(
    settings: Settings, qanvas: Callable[..., Qanvas], crowd: contextlib.ExitStack
) -> None:
    changed = _with_few_threads(settings)
    small = Server(qanvas("api", settings=changed), changed)
    [serving] = [one for one in small.process.family() if _listens(one, small.settings.port)]
    many(crowd, small, 40)
    assert_others_are_served(small)
    serving.rlimit(psutil.RLIMIT_NOFILE, (serving.num_fds() + 6, 4096))
    for _ in range(3):
        many(crowd, small)
        assert_others_are_served(small)
    used = _cpu(serving)
    time.sleep(2)
    assert _cpu(serving) - used < 1.0, "it does not spin while there is nothing to accept"
    serving.rlimit(psutil.RLIMIT_NOFILE, (4096, 4096))
    assert_others_are_served(small)


def _cpu(process: psutil.Process) -> float:
    return float(sum(process.cpu_times()[:2]))


def _listens(process: psutil.Process, port: int) -> bool:
    """Whether it serves; the process that started it has let go of the socket."""
    return any(
        one.status == psutil.CONN_LISTEN for one in process.net_connections() if one.laddr.port == port
    )
