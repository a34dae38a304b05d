"""What a worker and its decoders say to each other over Unix sockets.

Each task has a line of its own. The worker hands it to the process that starts decoders, and sends the
request over it: a JSON head and, beside it, open files (``SCM_RIGHTS``), so that a decoder opens no path. The
decoder sends frames: one byte that says what it is, a length, and a body of at most ``MOST_BODY`` bytes. A
file may have taken the decoder over: the worker unpickles nothing of it, and checks what it wrote.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

#: what a frame of a decoder is
PROGRESS, DONE, REFUSED, MEMORY, FULL = b"p", b"d", b"r", b"m", b"f"
#: what a frame of the process that starts decoders is: it can begin, or a decoder has ended
HELLO, GONE = b"h", b"g"
#: bytes of a frame's body at most
MOST_BODY = 4096
#: the body of a ``PROGRESS``: how much is done, and of how much
STEPS = struct.Struct(">QQ")
#: the body of a ``GONE``: the exit status, below 0 the signal that ended it
STATUS = struct.Struct(">i")

_FRAME = struct.Struct(">cI")
_REQUEST = struct.Struct(">I")
#: bytes of a request's head at most, and files beside it
_MOST_REQUEST, _MOST_FILES = 1 << 20, 8


class Undecodable(Exception):
    """What was sent cannot be decoded. The message says why and what to do, in words that go on from the name
    of the field: ``is no picture; send one of …``."""


class Ended(Exception):
    """The other side is gone."""


class Nonsense(Exception):
    """The other side sends what is no frame."""


@dataclass(frozen=True, slots=True)
class Files:
    """Open files of one task: what it reads and what it writes."""

    sources: Sequence[BinaryIO]
    targets: Sequence[BinaryIO]


#: tells how much is done, and of how much
Report = Callable[[int, int], None]
#: what a decoder can be asked to do: files, arguments and ``Report`` in, at most ``MOST_BODY`` bytes out.
#: Raises Undecodable; whatever else it raises is taken for the fault of what was sent
Task = Callable[[Files, Mapping[str, Any], Report], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A task by its name in the decoder's table, and seconds of computing that it may take."""

    task: str
    seconds: float
    arguments: Mapping[str, Any]


def hand_over(control: socket.socket, line: socket.socket) -> None:
    """Have a decoder started that serves this line. Raises OSError when nobody is there."""
    socket.send_fds(control, [b"l"], [line.fileno()])


def next_line(control: socket.socket) -> socket.socket | None:
    """The line of the next decoder, None when the worker is gone."""
    found, descriptors, _, _ = socket.recv_fds(control, 1, 1)
    return socket.socket(fileno=descriptors[0]) if found and descriptors else None


def ask(line: socket.socket, request: Request, files: Files) -> None:
    """Send a request with its files. Raises OSError when the decoder is gone."""
    head = {
        "task": request.task,
        "seconds": request.seconds,
        "arguments": request.arguments,
        "sources": len(files.sources),
    }
    body = json.dumps(head).encode()
    descriptors = [file.fileno() for file in (*files.sources, *files.targets)]
    sent = socket.send_fds(line, [_REQUEST.pack(len(body))], descriptors)
    assert sent == _REQUEST.size
    line.sendall(body)


def asked(line: socket.socket) -> tuple[Request, Files] | None:
    """The next request, None when the worker is gone. The caller closes the files."""
    length, descriptors, _, _ = socket.recv_fds(line, _REQUEST.size, _MOST_FILES)
    if len(length) < _REQUEST.size:
        return None
    (size,) = _REQUEST.unpack(length)
    if size > _MOST_REQUEST:
        raise Nonsense
    head = json.loads(_exactly(line, size, None))
    count = head["sources"]
    sources = [_opened(descriptor, "rb") for descriptor in descriptors[:count]]
    targets = [_opened(descriptor, "wb") for descriptor in descriptors[count:]]
    request = Request(task=head["task"], seconds=head["seconds"], arguments=head["arguments"])
    return request, Files(sources, targets)


def _opened(descriptor: int, mode: str) -> BinaryIO:
    return cast(BinaryIO, os.fdopen(descriptor, mode))


def send(line: socket.socket, kind: bytes, body: bytes = b"") -> None:
    """Send a frame; a body that is too long is cut."""
    body = body[:MOST_BODY]
    line.sendall(_FRAME.pack(kind, len(body)) + body)


def receive(line: socket.socket, deadline: float) -> tuple[bytes, bytes]:
    """Kind and body of the next frame. Raises Ended, Nonsense, and TimeoutError at the deadline."""
    kind, size = _FRAME.unpack(_exactly(line, _FRAME.size, deadline))
    if size > MOST_BODY:
        raise Nonsense
    return kind, _exactly(line, size, deadline)


def _exactly(line: socket.socket, size: int, deadline: float | None) -> bytes:
    found = bytearray()
    while len(found) < size:
        if deadline is not None:
            if (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError
            line.settimeout(left)
        try:
            piece = line.recv(min(size - len(found), 1 << 16))
        except ConnectionError:
            raise Ended from None
        if not piece:
            raise Ended
        found += piece
    return bytes(found)
