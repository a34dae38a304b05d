"""JSON of megabytes, read in steps: other threads get the interpreter between any two of them.

The scanner of ``json`` that is written in C keeps the interpreter's lock for the whole call. Here the bytes
are counted while they come in, before anything is made of them (``Scan``), and then parsed by the same
module's scanner in Python, a value at a time (``decoder``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from json.decoder import scanstring as _scanstring  # type: ignore[attr-defined]
from json.scanner import py_make_scanner  # type: ignore[attr-defined]
from typing import Any

from api.http.problems import BadRequest
from shared.errors import TooLarge

#: the text of a document that begins at an index, after its quotation mark, and the index behind its end
scanstring: Callable[[str, int, bool], tuple[str, int]] = _scanstring

#: values of one body: numbers, texts, ``true`` and the like, arrays and objects, but not members' names
MOST_VALUES = 200_000
#: levels of arrays and objects inside each other; jobs need four or five
MAX_DEPTH = 64
#: bytes of a name of a member, and characters of a number, beyond which a large body is refused
_MOST_NAME, _MOST_NUMBER = 1 << 20, 4300
#: characters of a text within which its end is looked for before it is taken apart
_SHORT = 4096

_BLANKS = b" \t\r\n"
_TO_COMMAS = bytes.maketrans(b"[]{}:", b",,,,,")


class Scan:
    """Counts the values of a body whose bytes come in pieces, exactly where the body is JSON at all.

    Escaped characters are dropped first, so that every quotation mark left begins or ends a text. What is
    outside texts shows each value once: the first by the bracket of its array or object, every further one by
    the comma before it.
    """

    def __init__(self) -> None:
        self.values = 1
        #: the body holds a ``\\u`` escape, the only way to write NUL or half a surrogate pair
        self.has_code_points = False
        #: arrays and objects in all: an upper bound of how deep they are nested
        self.containers = 0
        self._depth = 0
        self._in_text = False
        self._text_bytes = 0
        self._after_long_text = False
        self._half_escape = b""
        self._last = b""

    def feed(self, piece: bytes) -> None:
        """Raises TooLarge for more than ``MOST_VALUES``, BadRequest for what no parser should be given."""
        outside = self._outside(piece)
        if self._after_long_text and outside:
            self._after_long_text = False
            if outside.startswith(b":"):
                raise TooLarge(f"the body has a name of more than {_MOST_NAME} bytes")
        opened = outside.count(b"[") + outside.count(b"{")
        pairs = self._last + outside  # the brackets of an empty array may come in two pieces
        empty = pairs.count(b"[]") + pairs.count(b"{}")
        self._last = outside[-1:] or self._last
        self.containers += opened
        self.values += outside.count(b",") + opened - empty
        if self.values > MOST_VALUES:
            raise TooLarge(
                f"the body has more than {MOST_VALUES} values; send large data as a file with POST /v1/files "
                "and give its id"
            )
        self._depth += opened - outside.count(b"]") - outside.count(b"}")
        if self._depth > MAX_DEPTH:
            raise BadRequest(f"the body is nested deeper than {MAX_DEPTH} levels")
        if len(outside) > _MOST_NUMBER and max(map(len, outside.translate(_TO_COMMAS).split(b","))) > (
            _MOST_NUMBER
        ):
            raise BadRequest("the body is not JSON that can be read: a number has too many digits")

    def _outside(self, piece: bytes) -> bytes:
        """What of the piece is outside texts, without blanks; an ``s`` stands for each text."""
        data = self._half_escape + piece
        self.has_code_points = self.has_code_points or b"\\u" in data
        cut = (len(data) - len(data.rstrip(b"\\"))) % 2  # the last backslash escapes what is yet to come
        self._half_escape, data = data[len(data) - cut :], data[: len(data) - cut]
        parts = data.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        first = 1 if self._in_text else 0
        outside = b"s".join(parts[first::2])
        if self._in_text:
            self._text_bytes += len(parts[0])
            self._after_long_text = len(parts) > 1 and self._text_bytes > _MOST_NAME
        if len(parts) > 1:
            self._in_text = len(parts) % 2 == first
            if self._in_text:
                self._text_bytes = len(parts[-1])
                outside += b"s"
        return outside.translate(None, _BLANKS)


#: a part of a text that ends between two characters: runs of plain ones, and whole escapes
_PART = re.compile(
    r'(?:[^"\\\x00-\x1f]{1,64}+'
    r"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    r'|\\u[0-9a-fA-F]{4}|\\["\\/bfnrt]){1,8192}+'
)


def _text(document: str, begin: int, strict: bool = True) -> tuple[str, int]:
    """As ``json.decoder.scanstring``: the text that begins here and where it ends, but in steps."""
    end = document.find('"', begin, begin + _SHORT)
    if end > begin and document[end - 1] != "\\":  # nothing escapes it: the text ends here
        return scanstring(document, begin, strict)
    found = _PART.match(document, begin)
    if found is None or document[found.end() : found.end() + 1] == '"':
        return scanstring(document, begin, strict)
    parts: list[str] = []
    end = begin
    while found is not None:
        parts.append(scanstring(found[0] + '"', 0, strict)[0])
        end = found.end()
        found = _PART.match(document, end)
    last, end = scanstring(document, end, strict)  # the closing quotation mark, or what is wrong
    return "".join((*parts, last)), end


class _Decoder(json.JSONDecoder):
    def __init__(self, **hooks: Any) -> None:
        super().__init__(**hooks)
        self.parse_string = _text
        self.scan_once = py_make_scanner(self)


def decoder(**hooks: Any) -> json.JSONDecoder:
    """A decoder that takes the same hooks as ``json.JSONDecoder``, and lets other threads run meanwhile."""
    return _Decoder(**hooks)
