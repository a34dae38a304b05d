"""Reading JSON bodies: every limit holds while bytes come in, and what all bodies take is bounded.

A body of up to 64 KiB is read and parsed in one step. Of a larger one each piece is counted before anything
is made of it. The bytes that it announces, or else the most that it may have, count against what all large
bodies of this process may hold, and one of them is parsed at a time. In memory a large body takes its bytes
as text (as many as it has where it is ASCII, up to four times as many where it is not), the same again for
the values, and about 100 bytes for each value, of which it has 200,000 at most.
"""

from __future__ import annotations

import codecs
import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any

from flask import Request

from api.http.body_checks import drain, not_utf8, parse, parse_large, refuse_encoding
from api.http.concurrency import ActiveRequests
from api.http.large_json import Scan
from api.http.problems import BadRequest, Busy, UnsupportedMediaType
from shared.errors import TooLarge

Read = Callable[[int], bytes]

#: bytes up to which a body is parsed in one step, and which it may hold without being counted
SMALL = 1 << 16
#: bytes that all large bodies of a process may hold together: so many, or so many of the largest
_TOGETHER, _LARGEST = 256 << 20, 4
#: seconds that a large body waits for others to be done, unread, before it is refused
_PATIENCE = 10.0


class Bodies:
    """The bodies that this process holds. Shared by all threads."""

    def __init__(self, limit: int, active: ActiveRequests) -> None:
        """``limit``: bytes of one body."""
        self._limit = limit
        self._most = max(_TOGETHER, _LARGEST * limit)
        self._active = active
        self._turn = threading.Lock()
        #: guards ``_held``, and tells when there is more room
        self._changed = threading.Condition()
        self._held: Counter[str] = Counter()

    def receive(self, request: Request, tenant: str) -> Body:
        """The body of a request, parsed; to be used as a context.

        Raises UnsupportedMediaType, TooLarge, Busy (too much is held already), BadRequest (not JSON),
        InvalidInput (text that no database can hold)."""
        media_type = request.mimetype
        if media_type != "application/json" and not media_type.endswith("+json"):
            raise UnsupportedMediaType(
                "the body must be JSON: send Content-Type: application/json, "
                f"not {media_type[:100] or 'none'}"
            )
        refuse_encoding(request)
        announced = request.content_length
        if announced is not None and announced > self._limit:
            drain(request)
            raise self._too_large()
        # Werkzeug's stream finds the end of any body, which takes longer than to parse that of a submission
        source = request.stream if announced is None else request.environ["wsgi.input"]
        first = _read(source.read, SMALL + 1, announced)
        if len(first) > self._limit:
            drain(request)
            raise self._too_large()
        if len(first) <= SMALL:
            if announced is not None and len(first) < announced:
                raise _cut(len(first), announced)
            return Body(self, tenant, parse(first))
        body = Body(self, tenant)
        try:
            body.value = self._large(request, source.read, first, announced, body)
        except BaseException:
            body.release()
            raise
        return body

    def _large(self, request: Request, read: Read, first: bytes, announced: int | None, body: Body) -> Any:
        """Read on after the ``first`` bytes, piece by piece, and parse."""
        scan, decoder = Scan(), codecs.getincrementaldecoder("utf-8")()
        texts: list[str] = []
        size, piece = 0, first
        try:
            self._hold(body, self._limit if announced is None else announced)
            while piece:
                if size + len(piece) > self._limit:
                    raise self._too_large()
                scan.feed(piece)
                try:
                    texts.append(decoder.decode(piece))
                except UnicodeDecodeError as error:
                    raise not_utf8(error, size - (len(error.object) - len(piece))) from None
                size += len(piece)
                piece = b"" if size == announced else read(_piece(size, announced))
        except (TooLarge, Busy):
            drain(request)
            raise
        except BadRequest:
            self._skip(request, read, size + len(piece))
            raise
        if announced is not None and size < announced:
            raise _cut(size, announced)
        try:
            texts.append(decoder.decode(b"", final=True))
        except UnicodeDecodeError as error:
            raise not_utf8(error, size - len(error.object)) from None
        with self._active.paused():
            self._turn.acquire()
        try:
            text = "".join(texts)
            texts.clear()
            return parse_large(text, scan)
        finally:
            self._turn.release()

    def _skip(self, request: Request, read: Read, size: int) -> None:
        """Read and forget the rest of a body that is wrong. Raises TooLarge where it is too large as well."""
        while size <= self._limit:
            if not (piece := read(SMALL)):
                return
            size += len(piece)
        drain(request)
        raise self._too_large()

    def _hold(self, body: Body, count: int) -> None:
        """Count the bytes that a body will hold, once there is room for them: a tenant holds half of what
        all may hold at most. Raises Busy where there is none in time."""
        with self._active.paused(), self._changed:
            if not self._changed.wait_for(lambda: self._fits(body.tenant, count), _PATIENCE):
                raise Busy(
                    "too many large bodies are on their way to this server; send it again in a moment, or "
                    "upload the file with POST /v1/files and give its id"
                )
            self._held[body.tenant] += count
            body.held += count

    def _fits(self, tenant: str, count: int) -> bool:
        own, all_ = self._held[tenant] + count, self._held.total() + count
        return own <= self._most // 2 and all_ <= self._most

    def forget(self, body: Body) -> None:
        """What a body held is free."""
        with self._changed:
            self._held[body.tenant] -= body.held
            self._held += Counter()  # drops tenants that hold nothing
            body.held = 0
            self._changed.notify_all()

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"the body is larger than {self._limit} bytes; send large files with POST /v1/files and give "
            "their ids"
        )


class Body:
    """A parsed body. ``release`` it before a wait: it may be large."""

    __slots__ = ("_bodies", "held", "tenant", "value")

    def __init__(self, bodies: Bodies, tenant: str, value: Any = None) -> None:
        self._bodies = bodies
        self.tenant, self.value = tenant, value
        #: bytes that are counted as held
        self.held = 0

    def release(self) -> None:
        """Let go of the value."""
        self.value = None
        if self.held:
            self._bodies.forget(self)

    def __enter__(self) -> Body:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _read(read: Read, most: int, announced: int | None) -> bytes:
    """Up to ``most`` bytes from the beginning."""
    chunks: list[bytes] = []
    left = most if announced is None else min(most, announced)
    while left and (chunk := read(left)):
        left -= len(chunk)
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _piece(size: int, announced: int | None) -> int:
    return SMALL if announced is None else min(SMALL, announced - size)


def _cut(size: int, announced: int) -> BadRequest:
    return BadRequest(f"the body ended after {size} of {announced} bytes")
