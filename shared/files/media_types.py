"""What kinds of files there are, what a file is by its first bytes, and ``data:`` URIs. Pure."""

from __future__ import annotations

import binascii
import codecs
import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from shared.errors import InvalidInput

UNKNOWN = "application/octet-stream"

#: the kinds of ``x-file``, and how their media types begin
KINDS: Mapping[str, tuple[str, ...]] = {
    "image": ("image/",),
    "audio": ("audio/", "video/"),
    "video": ("video/",),
    "text": ("text/", "application/json", "application/x-ndjson", "application/jsonl"),
    "archive": ("application/zip", "application/x-zip"),
}

#: bytes of a file that tell what it is
HEAD = 4096


class Signature(NamedTuple):
    """``mark`` stands at byte ``offset`` of every file of this type, after ``start`` where there is one."""

    media_type: str
    suffix: str
    mark: bytes
    offset: int = 0
    start: bytes = b""


_SIGNATURES = (
    Signature("image/png", ".png", b"\x89PNG\r\n\x1a\n"),
    Signature("image/jpeg", ".jpg", b"\xff\xd8\xff"),
    Signature("image/gif", ".gif", b"GIF8"),
    Signature("image/webp", ".webp", b"WEBP", 8, b"RIFF"),
    Signature("image/bmp", ".bmp", b"\0\0\0\0", 6, b"BM"),
    Signature("image/tiff", ".tiff", b"II*\0"),
    Signature("image/tiff", ".tiff", b"MM\0*"),
    Signature("image/avif", ".avif", b"ftypavif", 4),
    Signature("image/heic", ".heic", b"ftyphei", 4),
    Signature("audio/wav", ".wav", b"WAVE", 8, b"RIFF"),
    Signature("audio/flac", ".flac", b"fLaC"),
    Signature("audio/ogg", ".ogg", b"OggS"),
    Signature("audio/mp4", ".m4a", b"ftypM4A", 4),
    Signature("audio/mpeg", ".mp3", b"ID3"),
    Signature("audio/mpeg", ".mp3", b"\xff\xfb"),
    Signature("audio/mpeg", ".mp3", b"\xff\xf3"),
    Signature("audio/mpeg", ".mp3", b"\xff\xf2"),
    Signature("audio/aac", ".aac", b"\xff\xf1"),
    Signature("audio/aac", ".aac", b"\xff\xf9"),
    Signature("video/x-msvideo", ".avi", b"AVI ", 8, b"RIFF"),
    Signature("video/webm", ".webm", b"\x1a\x45\xdf\xa3"),
    Signature("video/mp4", ".mp4", b"ftyp", 4),
    Signature("application/zip", ".zip", b"PK\x03\x04"),
    Signature("application/zip", ".zip", b"PK\x05\x06"),
)


def sniff(head: bytes) -> tuple[str, str]:
    """Media type and suffix of a file whose first ``HEAD`` bytes these are; whatever a server calls it."""
    for one in _SIGNATURES:
        if head.startswith(one.start) and head[one.offset :].startswith(one.mark):
            return one.media_type, one.suffix
    if head and not any(byte < 32 and byte not in b"\t\n\r\f" for byte in head):
        try:
            # as a stream: a character may be cut in two where the head ends
            codecs.getincrementaldecoder("utf-8")().decode(head, final=len(head) < HEAD)
        except UnicodeDecodeError:
            return UNKNOWN, ".bin"
        return "text/plain", ".txt"
    return UNKNOWN, ".bin"


def fits(kind: str, media_type: str) -> bool:
    """Whether a file of this media type may be given where one of the kind is asked for."""
    allowed = KINDS.get(kind, ())
    return not allowed or media_type.startswith(allowed)


_DATA = re.compile(r"data:([a-z0-9.+-]+/[a-z0-9.+-]+)?((?:;[^;,]*)*),", re.IGNORECASE)
#: characters of a ``data:`` URI before its comma, and characters that are decoded in one step
_MAX_URI_HEAD, _STEP = 1024, 1 << 18


def decode_data_uri(uri: str, pointer: str) -> tuple[str, bytes]:
    """Media type and content of a ``data:`` URI (RFC 2397). Raises InvalidInput at ``pointer``."""
    if (head := _DATA.match(uri, 0, _MAX_URI_HEAD)) is None:
        raise InvalidInput.at(pointer, "is no data: URI; the form is data:image/png;base64,…")
    parameters = (head[2] or "").lower().split(";")
    try:
        pieces = _unquoted(uri, head.end())
        content = b"".join(_from_base64(pieces) if "base64" in parameters else pieces)
    except binascii.Error as error:
        raise InvalidInput.at(pointer, f"is no data: URI in base64: {error}") from None
    if not content:
        raise InvalidInput.at(pointer, "is a data: URI without data")
    return (head[1] or "text/plain").lower(), content


def _unquoted(uri: str, begin: int) -> Iterator[bytes]:
    """The bytes that the URI has from here on, in steps that cut no ``%41`` apart."""
    while begin < len(uri):
        end = begin + _STEP
        if (sign := uri.rfind("%", max(begin + 1, end - 2), end)) >= 0:
            end = sign
        yield unquote_to_bytes(uri[begin:end])
        begin = end


def _from_base64(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """What pieces of base64 stand for. Raises binascii.Error."""
    rest = b""
    for piece in pieces:
        if b"=" in rest and piece:
            raise binascii.Error("there is more after its padding")
        rest += piece
        whole = len(rest) // 4 * 4 if b"=" not in rest else 0
        yield b64decode(rest[:whole], validate=True)
        rest = rest[whole:]
    yield b64decode(rest, validate=True)
