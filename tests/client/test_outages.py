"""What the client does when the server is away, over a limit, or newer than the client, over real HTTP."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

import qanvas
from shared.settings import Settings
from tests.client.conftest import Face

JOB = {"id": "job_1", "status": "queued", "input": {}, "outputs": []}


class Scripted(ThreadingHTTPServer):
    """Gives the answers that it was told, in this order, and keeps the requests. None: it breaks the
    connection without an answer."""

    daemon_threads = True

    def __init__(self, *answers: tuple[int, dict[str, str], Any] | None) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[str, dict[str, str], bytes, float]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Scripted

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((f"{self.command} {self.path}", headers, body, time.monotonic()))
        answer = self.server.answers.pop(0)
        if answer is None:
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        status, more, document = answer
        content = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **more}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = True

    do_GET = do_POST = do_DELETE = answer  # noqa: N815 - the names that the base class calls

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def scripted() -> Iterator[Callable[..., Scripted]]:
    started: list[Scripted] = []

    def start(*answers: tuple[int, dict[str, str], Any] | None) -> Scripted:
        server = Scripted(*answers)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


Connect = Callable[..., Face]
Start = Callable[..., Scripted]


@pytest.mark.parametrize(("status", "kind"), [(429, qanvas.OverLimit), (503, qanvas.Unavailable)])
def test_a_refusal_is_repeated_after_the_time_that_the_server_names(
    connect: Connect, scripted: Start, status: int, kind: type[qanvas.APIError]
) -> None:
    refusal = (status, {"Retry-After": "1"}, {"detail": "not now", "type": "urn:x"})
    server = scripted(refusal, (202, {}, JOB))
    assert connect(server.url).submit("fake", prompt="x").id == "job_1"
    [first, second] = server.requests
    assert second[3] - first[3] >= 1
    assert first[1]["idempotency-key"] == second[1]["idempotency-key"]
    server = scripted((status, {"Retry-After": "100"}, {"detail": "not now", "type": "urn:x"}))
    with pytest.raises(kind, match="not now") as caught:
        connect(server.url).submit("fake", prompt="x")
    assert (caught.value.retry_after, caught.value.type, caught.value.status) == (100, "urn:x", status)


def test_a_submission_whose_connection_breaks_is_sent_again_under_the_same_key(
    connect: Connect, scripted: Start
) -> None:
    server = scripted(None, (202, {}, JOB))
    assert connect(server.url).submit("fake", prompt="x").id == "job_1"
    [first, second] = server.requests
    assert first[1]["idempotency-key"] == second[1]["idempotency-key"]
    assert first[2] == second[2]


def test_a_call_that_would_do_its_work_twice_is_not_repeated_when_the_connection_breaks(
    connect: Connect, scripted: Start
) -> None:
    for make in (lambda face: face.retry("job_1"), lambda face: face.submit_many([{"model": "fake"}])):
        server = scripted(None)
        with pytest.raises(qanvas.NoAnswer) as caught:
            make(connect(server.url))
        assert caught.value.connected and len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, qanvas.BadRequest),
        (401, qanvas.Unauthorized),
        (403, qanvas.Forbidden),
        (404, qanvas.NotFound),
        (409, qanvas.Conflict),
        (413, qanvas.TooLarge),
        (415, qanvas.UnsupportedMediaType),
        (418, qanvas.APIError),
        (422, qanvas.InvalidInput),
        (500, qanvas.ServerError),
    ],
)
def test_each_status_has_an_error_of_its_own_and_is_not_repeated(
    connect: Connect, scripted: Start, status: int, kind: type[qanvas.APIError]
) -> None:
    server = scripted((status, {}, b"<html>no problem document</html>"))
    with pytest.raises(qanvas.APIError, match=f"the server answered {status}") as caught:
        connect(server.url, "qk_secret").submit("fake")
    assert type(caught.value) is kind
    assert server.requests[0][1]["authorization"] == "Bearer qk_secret"


def test_members_that_a_newer_server_sends_are_kept_and_those_that_are_missing_have_defaults(
    connect: Connect, scripted: Start
) -> None:
    newer = {
        "id": "job_1",
        "status": "succeeded",
        "colour": "red",
        "client": "not ours",
        "raw": 1,
        "error": {"type": "x", "new": 1},
        "outputs": [{"id": "out_1", "role": "main", "client": "not ours"}],
    }
    server = scripted((200, {}, newer), (200, {}, {"data": [{"id": "w", "new": 1}], "new": 2}))
    client = connect(server.url)
    job = client.job("job_1")
    assert (job.status, job.raw["colour"], job.attempts, job.error.type) == ("succeeded", "red", 0, "x")
    assert job.outputs[0].raw["role"] == "main"
    assert client.workers()[0].raw["new"] == 1


def test_an_answer_that_is_no_json_object_is_said_to_be_none(connect: Connect, scripted: Start) -> None:
    server = scripted((200, {}, b"<html>a page</html>"))
    with pytest.raises(qanvas.APIError, match="is it a Qanvas server"):
        connect(server.url).job("job_1")


def test_a_broken_event_stream_goes_on_behind_the_last_event(connect: Connect, scripted: Start) -> None:
    stream = {"Content-Type": "text/event-stream"}
    text = "a\u2028b"
    first = b"retry: 1000\n\nid: 1-0\nevent: status\ndata: {}\n\n: still here\n\nid: 2-0\nevent: token\nda"
    rest = (
        f'id: 2-0\r\nevent: token\r\ndata: {{"text": "{text}"}}\r\n\r\nid: 3-0\nevent: done\ndata: {{}}\n\n'
    )
    server = scripted(
        # more was announced than comes
        (200, {**stream, "Content-Length": "9999"}, first),
        None,
        (503, {"Retry-After": "0"}, {}),
        (200, stream, rest.encode()),
    )
    events = connect(server.url).events("job_1")
    assert [(one.id, one.type) for one in events] == [("1-0", "status"), ("2-0", "token"), ("3-0", "done")]
    assert events[1].data == {"text": text}
    assert [one[1].get("last-event-id") for one in server.requests] == [None, "1-0", "1-0", "1-0"]


def test_an_event_stream_that_breaks_again_and_again_is_given_up(connect: Connect, scripted: Start) -> None:
    server = scripted(None, (404, {}, {"detail": "no job"}))
    with pytest.raises(qanvas.NoAnswer):
        connect(server.url, patience=0).events("job_1")
    with pytest.raises(qanvas.NotFound):
        connect(server.url, patience=0).events("job_1")


def test_a_download_that_breaks_leaves_no_file(connect: Connect, scripted: Start, tmp_path: Any) -> None:
    server = scripted((200, {"Content-Length": "9999"}, b"half"))
    with pytest.raises(qanvas.NoAnswer):
        connect(server.url).save_output("out_1", tmp_path / "half.png")
    assert not list(tmp_path.iterdir())


class Cutting:
    """A proxy that breaks each connection after a number of bytes of the answer, at most ``times``."""

    def __init__(self, port: int, *, after: int, times: int) -> None:
        self._port, self._after, self.left = port, after, times
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._port))
            threading.Thread(target=self._pass, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(far, near, True), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        passed = 0
        try:
            while data := source.recv(4096):
                passed += len(data)
                if answers and passed > self._after and self.left:
                    self.left -= 1
                    break
                target.sendall(data)
        except OSError:
            pass
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@pytest.mark.slow
def test_each_event_of_a_real_server_comes_once_though_the_connection_breaks(
    client: Face, connect: Connect, server: Settings
) -> None:
    job = client.submit("fake", prompt="x", steps=12, step_seconds=0.1)
    proxy = Cutting(server.port, after=1200, times=2)
    try:
        seen = connect(proxy.url).events(job.id)
    finally:
        proxy.close()
    assert proxy.left == 0
    whole = client.events(job.id)
    assert [one.id for one in seen] == [one.id for one in whole]
    assert seen[-1].type == "done"
