"""The real server process: what only a socket can show."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.accounts.keys import KeyStore
from shared.accounts.tenants import Tenants
from shared.db.engine import Database
from shared.jobs.store import JobStore
from shared.settings import Settings
from tests.databases import emptied
from tests.servers import Qanvas, Valkey, drill_settings, free_port, wait_until

one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

BODY = {"model": "fake", "input": {"prompt": "a red apple"}}


class Server:
    def __init__(self, process: Qanvas, settings: Settings) -> None:
        self.process, self.settings = process, settings
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{settings.port}", timeout=30)
        wait_until(self.answers, what=f"the server: {process.said()}")

    def answers(self) -> bool:
        assert self.process.process.poll() is None, self.process.said()
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def stored(self) -> list[Path]:
        """The files in its storage, begun ones too."""
        return [path for path in (self.settings.data / "storage").rglob("*") if path.is_file()]

    def raw(self, data: bytes, *, seconds: float = 5) -> bytes:
        """What comes back for these bytes until the server closes or nothing more comes."""
        with socket.create_connection(("127.0.0.1", self.settings.port), timeout=seconds) as connection:
            connection.sendall(data)
            received = b""
            try:
                while piece := connection.recv(65536):
                    received += piece
                    if b"\r\n\r\n" in received and received.endswith(b"}"):
                        break
            except TimeoutError:
                pass
            return received


@pytest.fixture
def start(settings: Settings, qanvas: Callable[..., Qanvas]) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(*arguments: str, **changes: Any) -> Server:
        changed = settings.with_(port=free_port(), **changes)
        started.append(Server(qanvas("api", *arguments, settings=changed), changed))
        return started[-1]

    yield start
    for server in started:
        server.http.close()


@pytest.fixture(scope="module")
def long_lived(
    tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path, valkey: Valkey
) -> Iterator[Server]:
    """A server for all tests that leave it as it is: starting one takes longer than any of them."""
    folder = tmp_path_factory.mktemp("server")
    url = f"sqlite:///{shutil.copyfile(migrated_sqlite, folder / 'qanvas.db')}"
    settings = drill_settings(folder, url, valkey.url).with_(
        port=free_port(), max_body_bytes=100_000, max_upload_bytes=5_000_000
    )
    process = Qanvas(["api"], settings, folder / "api.out")
    server = Server(process, settings)
    yield server
    server.http.close()
    process.clean()


@pytest.fixture
def server(long_lived: Server, redis_url: str) -> Server:
    """That server, with nothing in its database, Redis and storage."""
    assert long_lived.answers(), long_lived.process.said()
    emptied(Database(long_lived.settings.database_url))
    for path in long_lived.stored():
        path.unlink()
    return long_lived


def pieces(content: bytes, size: int = 65536) -> Iterator[bytes]:
    for index in range(0, len(content), size):
        yield content[index : index + size]


def test_a_body_may_come_in_chunks_or_whole(server: Server) -> None:
    body = json.dumps(BODY).encode()
    headers = {"Content-Type": "application/json"}
    for content in (body, pieces(body, 7)):
        answer = server.http.post("/v1/jobs", content=content, headers=headers)
        assert answer.status_code == 202
    assert len(JobStore(Database(server.settings.database_url)).list("default").items) == 2


@pytest.mark.parametrize("size", [100_001, 3_000_000, 40_000_000])
def test_a_body_too_large_is_refused_before_the_connection_breaks(server: Server, size: int) -> None:
    headers = {"Content-Type": "application/json"}
    for content in (b"x" * size, pieces(b"x" * size)):
        answer = server.http.post("/v1/jobs", content=content, headers=headers)
        assert answer.status_code == 413
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["status"] == 413
    assert server.http.get("/v1/jobs").json()["data"] == []


@pytest.mark.parametrize("size", [5_000_001, 40_000_000])
def test_an_upload_too_large_is_refused_before_the_connection_breaks(server: Server, size: int) -> None:
    answer = server.http.post("/v1/files", files={"file": ("a", b"x" * size)})
    assert answer.status_code == 413 and answer.json()["status"] == 413
    assert server.http.get("/v1/files").json()["data"] == []
    assert server.stored() == []


def test_an_upload_streams_in_and_out(server: Server) -> None:
    content = bytes(range(256)) * 19_000
    file = server.http.post("/v1/files", files={"file": ("a", content)}).json()
    url = f"/v1/files/{file['id']}/content"
    assert server.http.get(url).content == content
    part = server.http.get(url, headers={"Range": "bytes=1000-1999"})
    assert part.status_code == 206 and part.content == content[1000:2000]
    head = server.http.head(url)
    assert head.headers["Content-Length"] == str(len(content)) and head.content == b""
    same = server.http.get(url, headers={"If-None-Match": head.headers["ETag"]})
    assert same.status_code == 304 and same.content == b""


def test_an_upload_that_breaks_off_leaves_nothing_behind(server: Server) -> None:
    head = b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"y" * 300_000
    for length in (
        b"Content-Length: 1000000\r\n\r\n" + part,
        b"Transfer-Encoding: chunked\r\n\r\n4000\r\nyyy",
    ):
        with socket.create_connection(("127.0.0.1", server.settings.port)) as connection:
            connection.sendall(head + length)
    time.sleep(0.5)
    assert server.http.get("/v1/files").json()["data"] == []
    wait_until(lambda: not server.stored(), what="what had come to be removed")


def test_uploads_of_unknown_length_take_no_more_than_their_tenants_quota(server: Server) -> None:
    """Two at once, each of which announces nothing and sends seven times what there is room for."""
    tenants = Tenants(Database(server.settings.database_url), server.settings)
    tenants.set("default", {"storage_bytes": 3_000_000})
    time.sleep(1.5)  # servers follow within a second
    most = [0, 0]

    def body(number: int) -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(320):
            with contextlib.suppress(FileNotFoundError):  # the other upload's was removed just now
                most[number] = max(most[number], sum(path.stat().st_size for path in server.stored()))
            yield b"y" * 65536

    def upload(number: int) -> httpx.Response:
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        return httpx.post(server.http.base_url.join("/v1/files"), content=body(number), headers=headers)

    with ThreadPoolExecutor() as threads:
        answers = list(threads.map(upload, range(2)))
    assert [answer.status_code for answer in answers] == [429, 429]
    assert answers[0].json()["limit"] == {"name": "storage-bytes", "size": 3_000_000}
    assert 0 < max(most) <= 3_000_000 and server.stored() == []


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET /v1/jobs/%00 HTTP/1.1",
        b"GET /v1/jobs/%ff%fe HTTP/1.1",
        b"GET /v1/jobs/\xff HTTP/1.1",
        b"GET /v1/jobs/\xc3\xa9 HTTP/1.1",
        b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1",
        b"GET /../../etc/passwd HTTP/1.1",
        b"GET /v1/jobs?limit=%ff HTTP/1.1",
        b"GET /v1/jobs?%00=%00 HTTP/1.1",
        b"GET /v1/jobs?cursor=\xff HTTP/1.1",
        b"POST /v1/jobs/%00/cancel HTTP/1.1",
        b"DELETE /v1/jobs HTTP/1.1",
        b"BREW /v1/jobs HTTP/1.1",
    ],
)
def test_a_strange_request_is_the_clients_mistake(server: Server, request_line: bytes) -> None:
    answer = server.raw(request_line + b"\r\nHost: localhost\r\nConnection: close\r\n\r\n", seconds=3)
    assert answer.startswith(b"HTTP/1.1 4"), answer
    assert server.answers()


@pytest.mark.parametrize(
    "body",
    [b"[" * 10_000 + b"]" * 10_000, b'{"a":' * 9_000 + b"1" + b"}" * 9_000, b"\xff", b"NaN", b"1" * 50_000],
    ids=["lists", "objects", "bytes", "nan", "digits"],
)
def test_a_hostile_body_is_malformed(server: Server, body: bytes) -> None:
    answer = server.http.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text


@pytest.mark.parametrize("path", [b"/healthz", b"/v1/jobs", b"/nothing"])
def test_a_request_has_exactly_one_host(server: Server, path: bytes) -> None:
    for lines in (
        b"",
        b"Host: localhost\r\nHost: localhost\r\n",
        b"Host: localhost\r\nHost: evil.example\r\n",
        b"Host: evil@localhost\r\n",
        b"Host: localhost/.evil\r\n",
        b"Host:\r\n",
    ):
        answer = server.raw(b"GET " + path + b" HTTP/1.1\r\n" + lines + b"Connection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400"), (lines, answer)


def test_a_health_check_of_http_1_0_needs_no_host(server: Server) -> None:
    assert b" 200 " in server.raw(b"GET /healthz HTTP/1.0\r\n\r\n").partition(b"\r\n")[0]
    assert b" 403 " in server.raw(b"GET /v1/jobs HTTP/1.0\r\n\r\n").partition(b"\r\n")[0]


def test_a_head_of_a_megabyte_is_refused_and_the_server_goes_on(server: Server) -> None:
    """By 431 or by closing the connection, which is what the HTTP library does where it has read enough."""
    headers = {
        "long": b"X-Long: " + b"x" * 1_000_000,
        "key": b"Authorization: Bearer " + b"q" * 1_000_000,
        "cookies": b"Cookie: " + b"a=b; " * 200_000,
        "many": b"\r\n".join(b"X-%d: y" % number for number in range(100_000)),
        "endless name": b"x" * 1_000_000,
    }
    lines = (b"GET /v1/jobs HTTP/1.1", b"POST /v1/jobs HTTP/1.1", b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1")
    for what, header in headers.items():
        for line in lines:
            answer = b""
            with contextlib.suppress(ConnectionError):
                answer = server.raw(line + b"\r\nHost: localhost\r\n" + header + b"\r\n\r\n")
            assert answer == b"" or answer.startswith(b"HTTP/1.1 431 "), f"{what}: {answer[:200]!r}"
        assert server.answers()
    assert server.http.post("/v1/jobs", json=BODY).status_code == 202


def test_a_body_that_ends_early_makes_no_job(server: Server) -> None:
    body = json.dumps(BODY).encode()
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n" + f"{len(body):x}\r\n".encode() + body[:-1]
    for data in (head + f"Content-Length: {len(body) + 9}\r\n\r\n".encode() + body, chunked):
        with socket.create_connection(("127.0.0.1", server.settings.port)) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(2)
            assert not connection.recv(4096).startswith(b"HTTP/1.1 2")
    time.sleep(0.3)
    assert server.http.get("/v1/jobs").json()["data"] == []


def test_methods_are_answered_with_those_allowed(server: Server) -> None:
    answer = server.http.put("/v1/jobs", content=b"{}")
    assert answer.status_code == 405 and "POST" in answer.headers["Allow"]
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "POST" in server.http.options("/v1/jobs").headers["Allow"]
    assert server.http.head("/v1/jobs").status_code == 200


def test_events_arrive_while_the_job_lives(server: Server) -> None:
    job = server.http.post("/v1/jobs", json=BODY).json()
    with server.http.stream("GET", job["urls"]["events"]) as answer:
        lines = answer.iter_lines()
        assert next(line for line in lines if line.startswith("event")) == "event: status"
        server.http.post(job["urls"]["cancel"])
        assert [line for line in lines if line.startswith("event")] == ["event: status", "event: done"]


@pytest.mark.slow
@one_database
def test_clients_that_send_their_bodies_slowly_hold_up_nobody_else(start: Callable[..., Server]) -> None:
    server = start(api_threads=2, api_streams=20)
    head = b"POST /v1/%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: 50\r\n\r\n"
    kinds = ((b"jobs", b"application/json"), (b"files", b"multipart/form-data; boundary=x"))
    with contextlib.ExitStack() as slow:
        connections = []
        for number in range(6):
            address = ("127.0.0.1", server.settings.port)
            connections.append(slow.enter_context(socket.create_connection(address, timeout=30)))
            connections[-1].sendall(head % kinds[number % 2] + b'{"model"')
        for _ in range(5):
            assert server.http.post("/v1/jobs", json=BODY, timeout=20).status_code == 202
        connections[0].sendall(b': "fake", "input": {"prompt": "apple"}}'.ljust(42))
        assert connections[0].recv(65536).startswith(b"HTTP/1.1 202"), "it is answered when it is there"


@pytest.mark.slow
@one_database
def test_a_watcher_who_leaves_gives_up_its_seat(start: Callable[..., Server]) -> None:
    server = start(api_threads=4)
    job = server.http.post("/v1/jobs", json=BODY).json()
    for _ in range(3):
        with server.http.stream("GET", job["urls"]["events"]) as answer:
            assert answer.status_code == 200
            next(answer.iter_lines())
    wait_until(
        lambda: _status(server, job["urls"]["events"]) == 200, seconds=40, what="a seat to become free"
    )


def _status(server: Server, url: str) -> int:
    with server.http.stream("GET", url) as answer:
        return answer.status_code


@pytest.mark.slow
@one_database
def test_a_stopped_server_answers_those_who_wait_and_is_gone(start: Callable[..., Server]) -> None:
    server = start()
    job = server.http.post("/v1/jobs", json=BODY).json()
    answers: list[httpx.Response] = []

    def wait() -> None:
        answers.append(httpx.get(f"{server.http.base_url}{job['urls']['self']}?wait=50", timeout=60))

    def watch() -> None:
        answers.append(httpx.get(f"{server.http.base_url}{job['urls']['events']}", timeout=60))

    waiting = [threading.Thread(target=wait), threading.Thread(target=watch)]
    for thread in waiting:
        thread.start()
    time.sleep(1)
    began = time.monotonic()
    assert server.process.stop(10) == 0, server.process.said()
    for thread in waiting:
        thread.join()
    assert time.monotonic() - began < 25  # of 50 that they would have waited
    assert [answer.status_code for answer in answers] == [200, 200]
    assert server.process.family() == []
    assert server.process.output() == ""


@pytest.mark.slow
@one_database
def test_a_killed_server_leaves_no_process_behind(start: Callable[..., Server]) -> None:
    server = start("--workers", "2")
    server.process.kill()
    wait_until(lambda: server.process.family() == [], seconds=40, what="its processes to end")


def test_a_taken_port_is_refused_with_the_cure(server: Server, qanvas: Callable[..., Qanvas]) -> None:
    second = qanvas("api", settings=server.settings)
    assert second.wait(30) != 0
    assert "--port" in second.said() and "Traceback" not in second.said()


@pytest.mark.slow
@one_database
def test_an_open_address_without_a_key_is_refused_with_the_cure(
    settings: Settings, qanvas: Callable[..., Qanvas]
) -> None:
    refused = qanvas("api", settings=settings.with_(host="0.0.0.0", port=free_port()))
    assert refused.wait(30) != 0
    assert "qanvas keys create" in refused.said() and "Traceback" not in refused.said()


@pytest.mark.slow
@one_database
def test_an_open_address_with_a_key_asks_for_it(start: Callable[..., Server], settings: Settings) -> None:
    _, secret = KeyStore(Database(settings.database_url)).create("test")
    server = start(host="0.0.0.0")
    assert server.http.get("/v1/jobs").status_code == 401
    assert server.http.get("/v1/jobs", headers={"Authorization": f"Bearer {secret}"}).status_code == 200


@pytest.mark.slow
@one_database
def test_two_processes_share_the_work(start: Callable[..., Server]) -> None:
    server = start("--workers", "2")
    ids: list[str] = []

    def submit() -> None:
        with httpx.Client(base_url=server.http.base_url, timeout=60) as client:
            ids.extend(client.post("/v1/jobs", json=BODY).json()["id"] for _ in range(20))

    threads = [threading.Thread(target=submit) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 120
    assert server.process.stop(10) == 0
