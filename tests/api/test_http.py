"""What the server makes of HTTP: over real sockets, in front of an application that tells what it gets."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from api.server.server import Server
from shared.errors import QanvasError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

PATIENCE = 1.0


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answers with what it was given; what the path says besides."""
    path = environ["PATH_INFO"]
    if path == "/unread":
        return _plain(start_response, b"without its body")
    if path == "/bug":
        raise RuntimeError("a bug")
    if path == "/empty":
        start_response("204 NO CONTENT", [])
        return []
    if path == "/stream":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return iter([b"one ", b"", b"two"])
    if path == "/short":
        start_response("200 OK", [("Content-Length", "10")])
        return [b"less"]
    try:
        body = environ["wsgi.input"].read()
    except QanvasError as error:
        return _plain(start_response, f"{type(error).__name__}: {error}".encode(), "400 BAD REQUEST")
    given = {name: value for name, value in environ.items() if isinstance(value, str)}
    return _plain(start_response, json.dumps({**given, "body": body.decode("latin-1")}).encode())


def _plain(start_response: StartResponse, content: bytes, status: str = "200 OK") -> Iterable[bytes]:
    start_response(status, [("Content-Length", str(len(content)))])
    return [content]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.getsockname()[1]
        server = Server(
            listener,
            application,
            urgent_app=application,
            urgent={b"/healthz"},
            threads=4,
            slow=4,
            connections=64,
            patience=PATIENCE,
        )
        thread = threading.Thread(target=server.run, args=(1.0,))
        thread.start()
        yield number
        server.stop()
        thread.join()


def exchange(port: int, data: bytes, *, end: bool = False) -> bytes:
    """What comes back until the server closes, or says nothing for half of its patience."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE / 2) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
            if end:
                connection.shutdown(socket.SHUT_WR)
        found = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            while piece := connection.recv(65536):
                found += piece
        return found


def given(answer: bytes) -> dict[str, Any]:
    """What the application was given, as the last answer tells it."""
    assert answer.startswith(b"HTTP/1.1 200"), answer
    return dict(json.loads(answer.rpartition(b"\r\n\r\n")[2]))


def post(*headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join(["POST / HTTP/1.1", "Host: x", *headers, "", ""]).encode("latin-1") + body


CHUNKED = "Transfer-Encoding: chunked"


def test_requests_that_come_at_once_are_answered_one_after_the_other(port: int) -> None:
    bodies = [b"%d" % number * number for number in range(50)]
    asked = [post(f"Content-Length: {len(body)}", body=body) for body in bodies]
    found = exchange(port, b"".join(asked))
    assert [json.loads(one)["body"].encode() for one in _contents(found)] == bodies


def _contents(answers: bytes) -> Iterator[bytes]:
    while answers:
        head, _, rest = answers.partition(b"\r\n\r\n")
        length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        yield rest[:length]
        answers = rest[length:]


def test_a_head_may_come_in_any_pieces(port: int) -> None:
    whole = b"\r\n" + post("Content-Length: 4", "X-A: 1", body=b"body")
    for size in (1, 3, 7):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for index in range(0, len(whole), size):
                connection.sendall(whole[index : index + size])
            assert b'"body": "body"' in connection.recv(65536)


@pytest.mark.parametrize("size", [1, 100, 20_000, 300_000])
def test_a_body_is_the_same_whole_or_in_chunks(port: int, size: int) -> None:
    body = bytes(65 + index % 26 for index in range(size))
    assert given(exchange(port, post(f"Content-Length: {size}", body=body)))["body"] == body.decode()
    pieces = [body[index : index + 4096] for index in range(0, size, 4096)]
    chunks = b"".join(b"%x;name=value\r\n%b\r\n" % (len(one), one) for one in pieces)
    ended = chunks + b"0\r\nTrailer: x\r\n\r\n"
    found = given(exchange(port, post(CHUNKED, body=ended)))
    assert found["body"] == body.decode() and "HTTP_TRAILER" not in found


def test_tiny_chunks_are_read_as_well(port: int) -> None:
    found = exchange(port, post(CHUNKED, body=b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n"))
    assert given(found)["body"] == "x" * 20_000


@pytest.mark.parametrize(
    "body",
    [
        b"1;" + b"e" * 300_000 + b"\r\nx\r\n0\r\n\r\n",
        b"1\r\nx\r\n0\r\n" + b"T" * 300_000 + b": x\r\n\r\n",
        b"1\r\nx\r\n0\r\n" + b"T: x\r\n" * 100_000 + b"\r\n",
        (b"1;" + b"e" * 1000 + b"\r\nx\r\n") * 300 + b"0\r\n\r\n",
    ],
    ids=["extension", "trailer", "trailers", "extensions"],
)
def test_chunks_that_are_more_than_their_content_are_refused(port: int, body: bytes) -> None:
    found = exchange(port, post(CHUNKED, body=body))
    assert b"BrokenBody: the chunks of the body have too little content" in found


@pytest.mark.parametrize(
    "body", [b"x\r\n", b"-1\r\nx\r\n", b"ffffffffffffffffff\r\n", b"1\r\nxx\r\n", b"1\nx\n0\n\n", b"1\r\nx"]
)
def test_chunks_that_are_none_and_those_that_end_early_are_refused(port: int, body: bytes) -> None:
    assert b"BrokenBody: " in exchange(port, post(CHUNKED, body=body), end=True)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (post("Content-Length: 5", "Content-Length: 6"), 400),
        (post("Content-Length: 5, 5"), 400),
        (post("Content-Length: +5"), 400),
        (post("Content-Length: 99999999999999999999999"), 400),
        (post("Content-Length: 5", CHUNKED), 400),
        (post("Transfer-Encoding: gzip, chunked"), 501),
        (post("Transfer-Encoding: gzip"), 400),
        (post("Transfer-Encoding : chunked"), 400),
        (post("X-A: 1", " folded"), 400),
        (post("X-A: \x00"), 400),
        (post("no colon"), 400),
        (post("Host: y"), 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"GET /\r\n\r\n", 505),
        (b"GET / HTTP/1.1\nHost: x\n\n", 400),
        (b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (post(*[f"X-{number}: y" for number in range(101)]), 431),
        (post("X-Long: " + "x" * 40_000), 431),
        (b"GET /" + b"x" * 100_000, 431),
    ],
)
def test_what_is_no_request_is_refused_and_the_connection_ends(
    port: int, request_: bytes, status: int
) -> None:
    found = exchange(port, request_ + post("X-Smuggled: 1"))
    assert found.startswith(b"HTTP/1.1 %d " % status), found[:200]
    assert b"application/problem+json" in found and b"Connection: close" in found
    assert found.count(b"HTTP/1.1 ") == 1


def test_what_the_application_learns_of_a_request(port: int) -> None:
    asked = (
        b"GET /a%20b/%C3%A9?q=%31 HTTP/1.1\r\nHost: x\r\nCookie: a=b\r\nCookie: c=d\r\nX-Twice: 1\r\n"
        b"X-Twice:  2 \r\nContent_Length: 5\r\nX_Twice: 3\r\nContent-Type: text/plain\r\n\r\n"
    )
    found = given(exchange(port, asked))
    assert found["PATH_INFO"] == "/a b/\xc3\xa9" and found["QUERY_STRING"] == "q=%31"
    assert found["HTTP_COOKIE"] == "a=b; c=d" and found["HTTP_X_TWICE"] == "1,2"
    assert found["CONTENT_TYPE"] == "text/plain" and "HTTP_CONTENT_LENGTH" not in found
    assert found["REMOTE_ADDR"] == "127.0.0.1" and found["SERVER_PORT"] == str(port)


def test_a_target_as_a_proxy_is_sent_is_taken_for_its_path(port: int) -> None:
    found = given(exchange(port, b"GET http://elsewhere/a?b HTTP/1.1\r\nHost: x\r\n\r\n"))
    assert found["PATH_INFO"] == "/a" and found["QUERY_STRING"] == "b"


def test_an_old_client_is_answered_and_the_connection_closed(port: int) -> None:
    for version in (b"HTTP/1.0\r\n", b"HTTP/1.0\r\nConnection: keep-alive\r\n"):
        found = exchange(port, b"GET /stream " + version + b"\r\n")
        assert found.endswith(b"\r\n\r\none two") and b"Connection: close" in found


def test_an_answer_of_unknown_length_comes_in_chunks(port: int) -> None:
    found = exchange(port, b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
    assert found.count(b"\r\n\r\n4\r\none \r\n3\r\ntwo\r\n0\r\n\r\n") == 2


@pytest.mark.parametrize("line", [b"HEAD /", b"HEAD /stream", b"GET /empty"])
def test_answers_without_a_body_have_none(port: int, line: bytes) -> None:
    found = exchange(port, (line + b" HTTP/1.1\r\nHost: x\r\n\r\n") * 2)
    assert found.count(b"HTTP/1.1 2") == 2 and found.endswith(b"\r\n\r\n")
    assert found.count(b"\r\n\r\n") == 2


def test_a_body_that_nobody_reads_ends_the_connection_and_the_answer_arrives(port: int) -> None:
    asked = post(f"Content-Length: {3 << 20}", body=bytes(3 << 20)).replace(b" / ", b" /unread ")
    found = exchange(port, asked)
    assert found.endswith(b"without its body") and b"Connection: close" in found


def test_a_short_body_that_nobody_reads_keeps_no_further_request_away(port: int) -> None:
    asked = post("Content-Length: 7", body=b'{"a":1}').replace(b" / ", b" /unread ")
    found = exchange(port, asked * 3)
    assert found.count(b"without its body") == 3 and b"Connection: close" not in found


def test_a_bug_is_told_as_one(port: int) -> None:
    found = exchange(port, b"GET /bug HTTP/1.1\r\nHost: x\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 500 ") and b"a bug" not in found.partition(b"this is a bug")[0]


def test_an_answer_shorter_than_it_says_ends_the_connection(port: int) -> None:
    began = time.monotonic()
    assert exchange(port, b"GET /short HTTP/1.1\r\nHost: x\r\n\r\n" * 2).count(b"HTTP/1.1") == 1
    assert time.monotonic() - began < 30


def test_a_client_that_asks_before_it_sends_a_body_is_told_to(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(post("Content-Length: 4", "Expect: 100-continue"))
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"body")
        assert b'"body": "body"' in connection.recv(65536)


def test_a_wish_for_another_protocol_is_not_granted(port: int) -> None:
    found = given(exchange(port, post("Connection: Upgrade", "Upgrade: websocket")))
    assert found["HTTP_UPGRADE"] == "websocket"


def test_what_follows_a_body_in_chunks_at_once_is_not_taken_for_a_request(port: int) -> None:
    found = exchange(port, post(CHUNKED, body=b"1\r\nx\r\n0\r\n\r\n") + post("X-Next: 1"))
    assert found.count(b"HTTP/1.1 200") == 1 and b"Connection: close" in found


def test_the_head_of_a_request_is_that_of_the_first_whatever_follows_its_chunks(port: int) -> None:
    found = given(
        exchange(port, post(CHUNKED, body=b"1\r\nx\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nX: y\r\n\r\n"))
    )
    assert found["REQUEST_METHOD"] == "POST" and found["PATH_INFO"] == "/" and "HTTP_X" not in found


def test_a_connection_that_breaks_in_a_body_is_the_clients_doing(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Not a bug: closing with something unread resets the connection instead of ending it."""
    for head in (post("Content-Length: 90000"), post(CHUNKED)):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(head)
            time.sleep(0.1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    time.sleep(0.3)
    assert given(exchange(port, post()))["body"] == ""
    assert not caplog.records
