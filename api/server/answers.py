"""From a WSGI application's answer to bytes on a connection."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from api.server.client import Client, Crowded, Gone, TooSlow
from api.server.environ import environ
from api.server.requests import Reading

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

log = logging.getLogger(__name__)


def answer(app: WSGIApplication, client: Client, reading: Reading, server: tuple[str, str]) -> bool:
    """Run the application for one request and send what it answers; whether the connection can serve another.

    Raises Gone where the client took no answer, or not all of it."""
    sending = _Sending(client, reading)
    try:
        chunks = app(environ(client, reading, server), sending.start)
        try:
            sending.all(chunks)
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()
    except (TooSlow, Crowded) as error:  # while the answer was sent: the application answers those of a body
        raise Gone from error
    except Gone:
        raise
    except Exception as error:
        log.exception("an answer failed")
        if sending.begun:
            raise Gone from error
        client.send(
            refusal(500, "this is a bug in Qanvas, not in your request; the server's log explains it")
        )
        return False
    return sending.may_go_on


class _Sending:
    """An answer as PEP 3333 has it: ``start`` says its head, then come its chunks."""

    def __init__(self, client: Client, reading: Reading) -> None:
        self._client, self._reading = client, reading
        self._status = ""
        self._headers: list[tuple[str, str]] = []
        #: something was sent
        self.begun = False
        self.may_go_on = False

    def start(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None, /
    ) -> Callable[[bytes], object]:
        """``start_response``; the status and headers are sent with the first bytes."""
        self._status, self._headers = status, headers
        return self._no_write

    @staticmethod
    def _no_write(_: bytes, /) -> None:
        raise NotImplementedError("answers are what the application returns")

    def all(self, chunks: Iterable[bytes]) -> None:
        """Send the head and all chunks. Raises TooSlow, Crowded, Gone, and what the application raises."""
        length = next((int(value) for name, value in self._headers if name.lower() == "content-length"), None)
        is_bare = self._reading.method == "HEAD" or self._status[:3] in ("204", "304")
        in_chunks = not is_bare and length is None and self._reading.version == "1.1"
        ends_by_closing = not is_bare and length is None and not in_chunks
        closes = ends_by_closing or self._reading.is_last or not self._reading.has_body
        head = self._head(in_chunks=in_chunks, closes=closes)
        sent = 0
        for chunk in () if is_bare else chunks:
            if chunk:
                sent += len(chunk)
                self._send(head + (b"%x\r\n%b\r\n" % (len(chunk), chunk) if in_chunks else chunk))
                head = b""
            if in_chunks:  # the next piece of a stream may be long in coming
                self._client.leave_place()
        self._send(head + (b"0\r\n\r\n" if in_chunks else b""))
        if not closes:
            self._reading.skip_body()
        self.may_go_on = not closes and (is_bare or in_chunks or sent == length)

    def _head(self, *, in_chunks: bool, closes: bool) -> bytes:
        lines = [f"HTTP/1.1 {self._status}", *(f"{name}: {value}" for name, value in self._headers)]
        lines.append(f"Date: {_now()}")
        if in_chunks:
            lines.append("Transfer-Encoding: chunked")
        if closes:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def _send(self, data: bytes) -> None:
        if data:
            self.begun = True
            self._client.send(data)


def _now() -> str:
    return _date(int(time.time()))


@lru_cache(maxsize=1)
def _date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)


def refusal(status: int, detail: str, *, retry_after: int | None = None) -> bytes:
    """A whole answer that no application is asked for, as RFC 9457 has it; the connection ends with it."""
    title = HTTPStatus(status).phrase
    document = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    content = json.dumps(document).encode()
    lines = [
        f"HTTP/1.1 {status} {title}",
        "Content-Type: application/problem+json",
        f"Content-Length: {len(content)}",
        f"Date: {_now()}",
        "Connection: close",
    ]
    if retry_after is not None:
        lines.append(f"Retry-After: {retry_after}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + content
