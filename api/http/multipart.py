"""A multipart body read as it arrives: nothing of it is kept in memory or on disk but a piece at a time."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData
from werkzeug.sansio.multipart import Event as Part

from api.http.problems import BadRequest
from shared.errors import TooLarge

_CHUNK = 1 << 16
#: bytes that may be held while a part's headers or the next boundary are looked for
_MOST_HELD = 2 * _CHUNK
#: bytes of a field that is not a file
_MOST_FIELD = 4096


class Parts:
    """The parts of a multipart body, one after the other; the content of each is read before the next."""

    def __init__(self, read: Callable[[int], bytes], boundary: str) -> None:
        self._read = read
        self._decoder = MultipartDecoder(boundary.encode(), max_form_memory_size=_MOST_HELD, max_parts=10)
        self._in_part = False

    def __iter__(self) -> Iterator[Part]:
        while True:
            event = self._next()
            if isinstance(event, Epilogue):
                return
            if isinstance(event, Field | File):
                self._in_part = True
                yield event
                if self._in_part:
                    raise BadRequest("the body is not multipart that can be read")

    def content(self) -> Iterator[bytes]:
        """The rest of the current part."""
        while self._in_part:
            event = self._next()
            if not isinstance(event, Data):
                raise BadRequest("the multipart body ended inside a part")
            self._in_part = event.more_data
            yield event.data

    def text(self) -> str:
        """The current part as text of a small field."""
        data = b""
        for piece in self.content():
            data += piece
            if len(data) > _MOST_FIELD:
                raise TooLarge(f"a field that is not a file may have at most {_MOST_FIELD} bytes")
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise BadRequest("a field of the multipart body is not UTF-8") from None

    def _next(self) -> Part:
        try:
            while isinstance(event := self._decoder.next_event(), NeedData):
                self._decoder.receive_data(self._read(_CHUNK) or None)
        except ValueError as error:
            raise BadRequest(f"the body is not multipart that can be read: {error}") from None
        return event


class Content(io.RawIOBase):
    """The content of one part as a stream. Reading past ``limit`` bytes raises what ``too_large`` makes."""

    def __init__(
        self,
        parts: Parts,
        limit: int,
        too_large: Callable[[int], TooLarge],
        take: Callable[[int], None],
    ) -> None:
        """``take`` is told of bytes before they are given out, and raises where there is no room for them."""
        self._take = take
        self._pieces = parts.content()
        self._left = b""
        self._limit, self._size, self._too_large = limit, 0, too_large

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._left:
            if (piece := next(self._pieces, None)) is None:
                return 0
            self._size += len(piece)
            if self._size > self._limit:
                raise self._too_large(self._limit)
            self._take(len(piece))
            self._left = piece
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
