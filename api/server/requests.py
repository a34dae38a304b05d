"""From bytes to a request: its head, and its body as it comes.

llhttp, the parser of Node.js, reads heads and chunks. It has no limits of its own and does not stop behind a
request, so it is given no more than one head, and of a body in chunks a piece at a time.
"""

from __future__ import annotations

import httptools

from api.server.client import Client, Pace
from shared.errors import QanvasError

#: bytes and headers that a request's head may have
MOST_HEAD, MOST_HEADERS = 32 << 10, 100
#: bytes of a body that are waited for before the request takes a thread
EARLY_BODY = 16 << 10
#: bytes of a body that are read at once
_CHUNK = 1 << 16
#: bytes of sizes, extensions and trailers that chunks may have: so many, and so many for each byte of content
_MOST_FRAMING, _FRAMING_EACH = 64 << 10, 16


class Refused(QanvasError):
    """Not a request that can be read: ``status`` says which kind of mistake it is."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class BrokenBody(QanvasError):
    """The body is not what the head announced, or its chunks cannot be read."""


class Reading:
    """The bytes of one request as they come in. ``complete`` says when it can be answered.

    llhttp calls the methods whose names begin with ``on_``."""

    def __init__(self) -> None:
        #: the head is there, and all that follows is known
        self.has_head = False
        self.method, self.target, self.version = "", b"", ""
        self.headers: list[tuple[bytes, bytes]] = []
        #: the client sends no further request
        self.is_last = False
        #: the client sends the body after a ``100 Continue`` only
        self.wants_to_be_asked = False
        #: all of the body has been read
        self.ended = False
        self._parser = httptools.HttpRequestParser(self)
        self._came = b""  # and was not looked at yet
        self._length: int | None = 0  # of what is left of the body; None: it comes in chunks
        self._content: list[bytes] = []  # of chunks, not yet read
        self._framing = _MOST_FRAMING

    @property
    def has_begun(self) -> bool:
        """Anything came at all."""
        return self.has_head or bool(self._came)

    @property
    def path(self) -> bytes:
        return self.target.partition(b"?")[0]

    def complete(self, data: bytes) -> bool:
        """Whether with ``data`` the head is there, and the body where it is so short that it comes soon.

        Raises Refused."""
        self._came = self._came + data if self._came else data
        if not self.has_head and not self._read_head():
            return False
        if self.wants_to_be_asked or self._length is None or self._length > EARLY_BODY:
            return True
        self.ended = not self._length
        return len(self._came) >= self._length

    def more(self, client: Client, pace: Pace) -> bytes:
        """The next piece of the body; empty at its end. Raises BrokenBody, TooSlow, Crowded, Gone."""
        piece = self._piece(client, pace) if self._length is not None else self._chunk(client, pace)
        pace.moved(len(piece))
        return piece

    @property
    def has_body(self) -> bool:
        """All of the body is here, read or not."""
        return self.ended or (self._length is not None and len(self._came) >= self._length)

    def skip_body(self) -> None:
        """Pass over what nobody has read of a body that is here."""
        if self._length:
            self._came, self._length, self.ended = self._came[self._length :], 0, True

    def take_rest(self) -> bytes:
        """What has come of the next request; for one that has ended."""
        return self._came

    def _read_head(self) -> bool:
        self._came = self._came.lstrip(b"\r\n")  # RFC 9112: in favour of clients that end bodies with a line
        end = self._came.find(b"\r\n\r\n")
        if max(end, len(self._came) if end < 0 else 0) > MOST_HEAD:
            raise Refused(431, f"the head of the request is longer than {MOST_HEAD} bytes")
        if end < 0:
            if b"\n\n" in self._came:
                raise Refused(400, "the lines of a head must end with CR LF")
            return False
        head, self._came = self._came[: end + 4], self._came[end + 4 :]
        if head.count(b"\n") > MOST_HEADERS + 2:
            raise Refused(431, f"the request has more than {MOST_HEADERS} headers")
        try:
            self._parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            pass  # it is answered as if it had not asked for another protocol
        except httptools.HttpParserError as error:
            raise Refused(400, f"the request is not HTTP/1.1: {error}") from None
        if not self.has_head:
            raise Refused(400, "the request is not HTTP/1.1: its head does not end where it seems to")
        self._check()
        return True

    def on_url(self, target: bytes) -> None:
        if not self.has_head:  # llhttp goes on behind the end of chunks, where another request may begin
            self.target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.has_head:  # trailers of chunks are of no use to anybody
            self.headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        if self.has_head:
            return
        self.has_head = True
        self.method = self._parser.get_method().decode("ascii")
        self.version = self._parser.get_http_version()
        self.is_last = (
            self.version == "1.0" or self.method == "CONNECT" or not self._parser.should_keep_alive()
        )

    def _check(self) -> None:
        """Look at the headers that say where the request ends, and whom it is for. Raises Refused."""
        hosts = 0
        for name, value in self.headers:
            match name.lower():
                case b"content-length":
                    self._length = int(value)
                case b"transfer-encoding":
                    self._length = None
                    if value.lower() != b"chunked":
                        raise Refused(501, "Transfer-Encoding can be chunked, and nothing else")
                case b"expect":
                    self.wants_to_be_asked = value.lower() == b"100-continue"
                case b"host":
                    hosts += 1
        if self.version not in ("1.0", "1.1"):
            raise Refused(505, f"this server speaks HTTP/1.1, not {self.version}")
        if hosts > 1 or (not hosts and self.version == "1.1"):
            raise Refused(400, f"a request must have one Host header, not {hosts}")

    def _piece(self, client: Client, pace: Pace) -> bytes:
        assert self._length is not None
        if not self._length:
            return b""
        piece, self._came = self._came[: self._length], self._came[self._length :]
        if not piece:
            piece = client.receive(min(_CHUNK, self._length), pace)
        if not piece:
            raise BrokenBody(f"the body ended {self._length} bytes before it should")
        self._length -= len(piece)
        self.ended = not self._length
        return piece

    def _chunk(self, client: Client, pace: Pace) -> bytes:
        while not self.ended and not self._content:
            data, self._came = self._came, b""
            data = data or client.receive(_CHUNK, pace)
            if not data:
                raise BrokenBody("the body ended before its last chunk")
            self._feed(data)
        content, self._content = b"".join(self._content), []
        return content

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.ended:
                raise BrokenBody(f"the chunks of the body cannot be read: {error}") from None
            self.is_last = True  # what comes behind the body is no request
        content = sum(map(len, self._content))
        self._framing += (1 + _FRAMING_EACH) * content - len(data)
        if self._framing < 0:
            raise BrokenBody("the chunks of the body have too little content for what is around it")

    def on_body(self, content: bytes) -> None:
        if not self.ended:
            self._content.append(content)

    def on_message_begin(self) -> None:
        if self.ended and self._length is None:
            self.is_last = True  # llhttp has begun with the next request, which cannot be had back

    def on_message_complete(self) -> None:
        if self._length is None:
            self.ended = True
