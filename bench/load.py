"""An HTTP/1.1 client that loads a server from one thread with little work of its own."""

from __future__ import annotations

import heapq
import re
import selectors
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_ID = re.compile(rb'"id":\s*"([^"]+)"')


@dataclass(slots=True)
class Sample:
    """One request; times are seconds since 1970. ``due`` is when it was to leave."""

    due: float
    answered: float
    status: int
    body: bytes

    @property
    def id(self) -> str:
        """The first ``id`` in the answer."""
        if (found := _ID.search(self.body)) is None:
            raise ValueError(f"no id in {self.body[:200]!r}")
        return found[1].decode()


@dataclass(slots=True)
class _Line:
    socket: socket.socket
    due: float = 0.0
    received: bytearray = field(default_factory=bytearray)


def post(path: str, body: bytes, *headers: str) -> bytes:
    """The bytes of a request."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def as_fast_as_possible(port: int, request: bytes, count: int, connections: int) -> list[Sample]:
    """``count`` answers; each connection sends its next request when it has its answer."""
    samples: list[Sample] = []
    with _lines(port, connections) as (lines, poll):
        sent = 0
        for line in lines[:count]:
            _send(line, request, time.time())
            sent += 1
        while len(samples) < count:
            for line in _ready(poll):
                if (sample := _receive(line)) is not None:
                    samples.append(sample)
                    if sent < count:
                        _send(line, request, sample.answered)
                        sent += 1
    return samples


def at_rate(port: int, request: bytes, rate: float, seconds: float, connections: int = 64) -> list[Sample]:
    """A request each 1/rate seconds, whether the server keeps up or not; what waits for a free connection
    counts from when it was due."""
    samples: list[Sample] = []
    total = round(rate * seconds)
    with _lines(port, connections) as (lines, poll):
        start = time.time() + 0.05
        due = [start + number / rate for number in range(total)]
        heapq.heapify(due)
        idle = list(lines)
        while len(samples) < total:
            while due and idle and due[0] <= time.time():
                _send(idle.pop(), request, heapq.heappop(due))
            wait = max(0.0, due[0] - time.time()) if due and idle else 1.0
            for line in _ready(poll, wait):
                if (sample := _receive(line)) is not None:
                    samples.append(sample)
                    idle.append(line)
    return samples


def expect(samples: Sequence[Sample], status: int) -> Sequence[Sample]:
    """The samples, when every answer had this status."""
    if odd := [sample for sample in samples if sample.status != status]:
        raise RuntimeError(f"{len(odd)} answers were not {status}: {odd[0].status} {odd[0].body[:500]!r}")
    return samples


@contextmanager
def _lines(port: int, count: int) -> Iterator[tuple[list[_Line], selectors.BaseSelector]]:
    lines = []
    with selectors.DefaultSelector() as poll:
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line = _Line(connection)
            poll.register(connection, selectors.EVENT_READ, line)
            lines.append(line)
        try:
            yield lines, poll
        finally:
            for line in lines:
                line.socket.close()


def _ready(poll: selectors.BaseSelector, timeout: float | None = None) -> list[_Line]:
    return [key.data for key, _ in poll.select(timeout)]


def _send(line: _Line, request: bytes, due: float) -> None:
    line.due = due
    line.received.clear()
    line.socket.sendall(request)


def _receive(line: _Line) -> Sample | None:
    """The answer, once all of it is here."""
    if not (chunk := line.socket.recv(1 << 16)):
        raise ConnectionError("the server closed a connection")
    line.received += chunk
    head = line.received.find(b"\r\n\r\n")
    if head < 0:
        return None
    length = _LENGTH.search(line.received, 0, head + 2)
    if length is None:
        raise ConnectionError(f"an answer without a length: {bytes(line.received[:head])!r}")
    if len(line.received) < head + 4 + int(length[1]):
        return None
    return Sample(line.due, time.time(), int(line.received[9:12]), bytes(line.received[head + 4 :]))
