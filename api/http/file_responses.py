"""Bytes that go out: whole, in ranges, or as a redirect to where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from flask import Request, Response
from werkzeug.http import parse_range_header
from werkzeug.wsgi import FileWrapper

from shared.storage.base import Storage

#: seconds for which a signed URL holds
_SIGNED_SECONDS = 900
_CHUNK = 1 << 16

#: whatever the bytes are, a browser must neither guess their type nor run them
_HARMLESS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
    "Cache-Control": "private, no-cache",
}


def serve(
    storage: Storage,
    request: Request,
    *,
    key: str,
    media_type: str,
    sha256: str,
    filename: str,
    download: bool = False,
) -> Response:
    """The content stored under ``key``. Heeds ``Range``, ``If-Range``, ``If-None-Match``.

    Raises NotFound, Unavailable; RequestedRangeNotSatisfiable becomes a 416.
    """
    url = storage.signed_url(key, _SIGNED_SECONDS)
    if url is not None:
        return Response(status=302, headers={"Location": url, "Cache-Control": "private, no-store"})
    size = storage.size(key)
    file = storage.open(key)
    try:
        response = Response(FileWrapper(file, _CHUNK), content_type=media_type)
        response.call_on_close(file.close)
        response.content_length = size
        response.headers.extend(dict(_HARMLESS))
        response.headers["Content-Disposition"] = _disposition(filename, download=download)
        response.set_etag(sha256)
        response.make_conditional(_one_range(request, size), accept_ranges=True, complete_length=size)
    except BaseException:
        file.close()
        raise
    return response


def _one_range(request: Request, size: int) -> dict[str, Any]:
    """The request without a ``Range`` that HTTP says to ignore, or lets a server ignore: a broken one, one in
    another unit, several at once, or more than all from the end."""
    environ = dict(request.environ)
    wanted = parse_range_header(environ.get("HTTP_RANGE"))
    if wanted is None or wanted.units != "bytes" or len(wanted.ranges) != 1 or -wanted.ranges[0][0] > size:
        environ.pop("HTTP_RANGE", None)
    return environ


def _disposition(filename: str, *, download: bool) -> str:
    kind = "attachment" if download else "inline"
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\%' else "_" for c in filename)
    extended = "" if plain == filename else f"; filename*=UTF-8''{quote(filename, safe='')}"
    return f'{kind}; filename="{plain}"{extended}'
