"""Files that a job's input names: each must be there, be the caller's, and be of a kind the model takes."""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from api.services import Services
from shared.errors import InvalidInput, NotFound
from shared.ids import is_id, new_id
from shared.jobs.files import FileRecord, NewFile

#: what files made of ``data:`` URIs are for
PURPOSE = "job-input"

_UNKNOWN = "application/octet-stream"
_KINDS: Mapping[str, tuple[str, ...]] = {
    "image": ("image/",),
    "audio": ("audio/", "video/"),
    "video": ("video/",),
    "text": ("text/", "application/json", "application/x-ndjson", "application/jsonl"),
    "archive": ("application/zip", "application/x-zip"),
}
_FORMS = "a file_… id of POST /v1/files, an out_… id of a job's output, or a data: URI"
_DATA = re.compile(r"data:([a-z0-9.+-]+/[a-z0-9.+-]+)?((?:;[^;,]*)*),", re.IGNORECASE)


class Inputs:
    """Settles the files of one submission; what it stored can be taken back when the submission fails."""

    def __init__(self, services: Services, tenant: str) -> None:
        self._services, self._tenant = services, tenant
        self._made: list[FileRecord] = []

    def settle(self, schema: Mapping[str, Any], value: Any, pointer: str) -> Any:
        """The input with every ``data:`` URI stored and replaced by the id of its file.

        ``schema`` says which strings are files (``x-file``). Raises InvalidInput, TooLarge, OverLimit,
        Unavailable.
        """
        if (kind := schema.get("x-file")) is not None and isinstance(value, str):
            return self._file(kind, value, pointer)
        if isinstance(value, dict):
            known = schema.get("properties", {})
            return {
                name: self.settle(known[name], member, f"{pointer}/{name}") if name in known else member
                for name, member in value.items()
            }
        if isinstance(value, list) and isinstance(items := schema.get("items"), Mapping):
            return [self.settle(items, member, f"{pointer}/{index}") for index, member in enumerate(value)]
        return value

    def discard(self) -> None:
        """Remove what was stored: the job that needs it was not made."""
        for record in self._made:
            self._services.files.delete(record.id)
            self._services.storage.delete(record.key)
            self._services.limits.storage.add(self._tenant, -record.bytes)
        self._made.clear()

    def _file(self, kind: str, value: str, pointer: str) -> str:
        if value[:5].lower() == "data:":
            record = self._store(kind, value, pointer)
            return record.id
        if is_id("file", value):
            self._check(kind, self._there(self._services.files.get, value, pointer), pointer)
            return value
        if is_id("out", value):
            self._check(kind, self._there(self._services.jobs.output, value, pointer), pointer)
            return value
        if value[:7].lower() == "http://" or value[:8].lower() == "https://":
            raise InvalidInput.at(pointer, f"must not be a URL; upload the file and give {_FORMS}")
        raise InvalidInput.at(pointer, f"must be {_FORMS}")

    def _there(self, get: Callable[..., Any], file_id: str, pointer: str) -> str:
        """The media type of a file or an output that exists for the tenant."""
        try:
            return str(get(file_id, tenant=self._tenant).media_type)
        except NotFound as error:
            raise InvalidInput.at(pointer, f"{error}; give {_FORMS}") from None

    def _store(self, kind: str, uri: str, pointer: str) -> FileRecord:
        media_type, content = _decode(uri, pointer)
        self._check(kind, media_type, pointer)
        self._services.limits.storage.check(self._tenant, len(content))
        key = f"files/{new_id('file')}"
        stored = self._services.storage.write(key, content)
        try:
            record = self._services.files.add(
                NewFile(
                    tenant=self._tenant,
                    filename=pointer.rpartition("/")[2],
                    purpose=PURPOSE,
                    media_type=media_type,
                    bytes=stored.bytes,
                    sha256=stored.sha256,
                    key=key,
                )
            )
        except BaseException:
            self._services.storage.delete(key)
            raise
        self._made.append(record)
        self._services.limits.storage.add(self._tenant, record.bytes)
        return record

    def _check(self, kind: str, media_type: str, pointer: str) -> None:
        allowed = _KINDS.get(kind, ())
        if media_type != _UNKNOWN and allowed and not media_type.startswith(allowed):
            raise InvalidInput.at(pointer, f"must be {kind} ({', '.join(allowed)}), not {media_type}")


def _decode(uri: str, pointer: str) -> tuple[str, bytes]:
    """Media type and content of a ``data:`` URI (RFC 2397)."""
    if (head := _DATA.match(uri)) is None:
        raise InvalidInput.at(pointer, "is no data: URI; the form is data:image/png;base64,…")
    parameters = (head[2] or "").lower().split(";")
    try:
        content = unquote_to_bytes(uri[head.end() :])
        if "base64" in parameters:
            content = b64decode(content, validate=True)
    except Base64Error as error:
        raise InvalidInput.at(pointer, f"is no data: URI in base64: {error}") from None
    if not content:
        raise InvalidInput.at(pointer, "is a data: URI without data")
    return (head[1] or "text/plain").lower(), content
