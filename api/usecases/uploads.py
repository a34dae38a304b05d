"""Files that come in by upload."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import BinaryIO, cast

from flask import Request
from werkzeug.datastructures import Headers
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Field, File

from api.auth.limits import Reservation
from api.http.body_checks import check_text, drain, pointer, refuse_encoding
from api.http.multipart import Content, Parts
from api.http.problems import UnsupportedMediaType
from api.usecases.services import Services
from shared.errors import InvalidInput, TooLarge
from shared.files.store import FileRecord, NewFile
from shared.ids import new_id

_CHUNK = 1 << 18
#: bytes that a multipart body may have beyond the file itself
_ENVELOPE = 1 << 20
_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+", re.IGNORECASE)
_PURPOSE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(slots=True)
class _Upload:
    key: str
    filename: str
    media_type: str
    bytes: int
    sha256: str


def receive(services: Services, request: Request, tenant: str) -> FileRecord:
    """Stream a multipart body with one ``file`` and perhaps a ``purpose`` into storage.

    Raises UnsupportedMediaType, BadRequest (broken multipart), TooLarge, InvalidInput, OverLimit. What was
    stored of a request that is refused is removed.
    """
    refuse_encoding(request)
    kind, options = parse_options_header(request.headers.get("Content-Type", ""))
    boundary = options.get("boundary", "")
    if kind != "multipart/form-data" or not 0 < len(boundary) <= 200 or not boundary.isascii():
        raise UnsupportedMediaType(
            "the body must be multipart/form-data with a boundary and a field named file; "
            "with curl: -F file=@NAME -F purpose=input"
        )
    quota = services.limits.storage
    limit = services.settings.max_upload_bytes
    if (request.content_length or 0) > limit + _ENVELOPE:
        drain(request)
        raise _too_large(limit)
    with quota.reserve(tenant) as room:
        form = _Form(services, limit, room)
        try:
            quota.check(tenant, max(1, (request.content_length or 0) - _ENVELOPE))
            upload = form.read(Parts(request.stream.read, boundary))
            record = _name(services, tenant, upload, form.purpose)
        except BaseException:
            form.discard()
            drain(request)
            raise
        room.keep()
        return record


class _Form:
    """The fields of an upload as they come in, in any order."""

    def __init__(self, services: Services, limit: int, room: Reservation) -> None:
        self._services, self._limit, self._room = services, limit, room
        self._upload: _Upload | None = None
        self.purpose = "input"

    def read(self, parts: Parts) -> _Upload:
        """Store the file. Raises as ``receive`` does."""
        for part in parts:
            if isinstance(part, File) and part.name in ("file", "content"):
                if self._upload is not None:
                    raise InvalidInput.at("/file", "must be given once")
                self._upload = self._store(part, parts)
            elif isinstance(part, Field) and part.name == "purpose":
                self.purpose = parts.text()
            elif isinstance(part, Field) and part.name == "file":
                raise InvalidInput.at("/file", "must be a file: a part with a filename")
            else:
                name = part.name if isinstance(part, File | Field) else ""
                raise InvalidInput.at(pointer((name or "",)), "is not known here; allowed are file, purpose")
        if self._upload is None:
            raise InvalidInput.at("/file", "is required: a part with a filename")
        if _PURPOSE.fullmatch(self.purpose) is None:
            raise InvalidInput.at(
                "/purpose", "must be a short name of lower-case letters, digits, dots and dashes"
            )
        return self._upload

    def discard(self) -> None:
        """Remove what was stored."""
        if self._upload is not None:
            self._services.storage.delete(self._upload.key)

    def _store(self, part: File, parts: Parts) -> _Upload:
        filename = (part.filename or "").rpartition("/")[2].strip() or "file"
        if len(filename) > 200:
            raise InvalidInput.at("/file", "must have a name of at most 200 characters")
        if not filename.isprintable():
            raise InvalidInput.at("/file", "must have a name of printable characters")
        check_text(filename)
        key = f"files/{new_id('file')}"
        content = Content(parts, self._limit, _too_large, self._room.grow)
        stored = self._services.storage.write(key, cast(BinaryIO, io.BufferedReader(content, _CHUNK)))
        return _Upload(key, filename, _media_type(part.headers), stored.bytes, stored.sha256)


def _name(services: Services, tenant: str, upload: _Upload, purpose: str) -> FileRecord:
    return services.files.add(
        NewFile(
            tenant=tenant,
            filename=upload.filename,
            purpose=purpose,
            media_type=upload.media_type,
            bytes=upload.bytes,
            sha256=upload.sha256,
            key=upload.key,
        )
    )


def _media_type(headers: Headers) -> str:
    given, _ = parse_options_header(headers.get("Content-Type", ""))
    return given.lower() if len(given) <= 100 and _MEDIA_TYPE.fullmatch(given) else "application/octet-stream"


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the file is larger than the {limit} bytes that QANVAS_MAX_UPLOAD_BYTES allows")
