"""A request as PEP 3333 has it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from api.server.client import Client, Gone, Pace
from api.server.requests import BrokenBody, Reading

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class Body:
    """A request's body as ``wsgi.input``."""

    def __init__(self, client: Client, reading: Reading) -> None:
        self._client, self._reading = client, reading
        self._left = b""
        self._pace: Pace | None = None
        self._failed = False

    def read(self, size: int = -1, /) -> bytes:
        """At most ``size`` bytes, as soon as there are some; all of it where ``size`` is negative.

        Raises BrokenBody, TooSlow, Crowded: once, after which it is at its end."""
        if size < 0:
            return b"".join(iter(lambda: self.read(1 << 16), b""))
        if not self._left and size and not self._failed:
            self._left = self._next()
        piece, self._left = self._left[:size], self._left[size:]
        return piece

    def _next(self) -> bytes:
        if self._pace is None:
            self._pace = Pace(self._client.patience)
        try:
            if self._reading.wants_to_be_asked:
                self._reading.wants_to_be_asked = False
                self._client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            return self._reading.more(self._client, self._pace)
        except Gone:
            self._failed = True
            raise BrokenBody("the connection broke before all of the body had come") from None
        except BaseException:
            self._failed = True
            raise


def environ(client: Client, reading: Reading, server: tuple[str, str]) -> WSGIEnvironment:
    """What PEP 3333 says of a request; ``REMOTE_PORT`` besides, and the ``Client`` as ``qanvas.client``.

    ``server`` are its name and port."""
    path, _, query = _origin(reading.target).partition(b"?")
    found: dict[str, Any] = {
        "REQUEST_METHOD": reading.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": (unquote_to_bytes(path) if b"%" in path else path).decode("latin-1"),
        "QUERY_STRING": query.decode("latin-1"),
        "SERVER_PROTOCOL": f"HTTP/{reading.version}",
        "SERVER_NAME": server[0],
        "SERVER_PORT": server[1],
        "REMOTE_ADDR": client.address,
        "REMOTE_PORT": client.port,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": Body(client, reading),
        "wsgi.input_terminated": True,  # it ends where the body does, chunked or not
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "qanvas.client": client,
    }
    _add_headers(found, reading.headers)
    return found


def _origin(target: bytes) -> bytes:
    """The path and query of a target, also of one as a proxy would be sent, ``http://host/path``."""
    if target.startswith(b"/"):
        return target
    _, separator, rest = target.partition(b"://")
    return b"/" + rest.partition(b"/")[2] if separator else target


@lru_cache(maxsize=256)  # clients send the same names with each request
def _name(header: bytes) -> str | None:
    """As a header is called in the environment; None for one that would be taken for another, as a name with
    an underscore is called like that with a dash."""
    if b"_" in header:
        return None
    name = header.decode("latin-1").upper().replace("-", "_")
    return name if name in ("CONTENT_LENGTH", "CONTENT_TYPE") else f"HTTP_{name}"


def _add_headers(found: dict[str, Any], headers: Iterable[tuple[bytes, bytes]]) -> None:
    for raw, value in headers:
        if (name := _name(raw)) is None:
            continue
        text = value.decode("latin-1")
        if name in found:
            text = f"{found[name]}{'; ' if name == 'HTTP_COOKIE' else ','}{text}"
        found[name] = text
