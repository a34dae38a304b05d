"""Every error as ``application/problem+json`` (RFC 9457); a bug is a 500 with an id that the log explains."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException, RequestedRangeNotSatisfiable

from api.server.client import Crowded, TooSlow
from api.server.requests import BrokenBody
from shared.errors import (
    Conflict,
    FieldError,
    Forbidden,
    InvalidInput,
    NotFound,
    OverLimit,
    QanvasError,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from shared.logs import one_line

MEDIA_TYPE = "application/problem+json"

#: characters of a client's own words that are repeated to it
_ECHO = 300

log = logging.getLogger(__name__)


class BadRequest(QanvasError):
    """The request cannot be read at all: broken JSON, a broken multipart body."""


class UnsupportedMediaType(QanvasError):
    """The body is of a type that this operation does not take."""


class HeaderTooLarge(QanvasError):
    """A header that would have to be taken apart is too long for that."""


class Busy(QanvasError):
    """Over a limit; ``retry_after`` is in seconds."""

    retry_after = 5


_STATUS: Sequence[tuple[type[QanvasError], HTTPStatus]] = (
    (BadRequest, HTTPStatus.BAD_REQUEST),
    (Unauthorized, HTTPStatus.UNAUTHORIZED),
    (Forbidden, HTTPStatus.FORBIDDEN),
    (NotFound, HTTPStatus.NOT_FOUND),
    (Conflict, HTTPStatus.CONFLICT),
    (TooLarge, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (UnsupportedMediaType, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
    (HeaderTooLarge, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE),
    (InvalidInput, HTTPStatus.UNPROCESSABLE_ENTITY),
    (Busy, HTTPStatus.TOO_MANY_REQUESTS),
    (Crowded, HTTPStatus.TOO_MANY_REQUESTS),
    (TooSlow, HTTPStatus.REQUEST_TIMEOUT),
    (BrokenBody, HTTPStatus.BAD_REQUEST),
    (OverLimit, HTTPStatus.TOO_MANY_REQUESTS),
    (Unavailable, HTTPStatus.SERVICE_UNAVAILABLE),
)


def problem(
    status: int,
    detail: str,
    *,
    errors: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
    **members: Any,
) -> Response:
    """A problem document; ``members`` are further ones, as RFC 9457 allows."""
    title = HTTPStatus(status).phrase
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": _short(detail),
        "instance": _short(request.path),
        **members,
    }
    if errors:
        document["type"] = "urn:qanvas:problem:invalid-input"
        document["errors"] = [
            {"pointer": _short(error.pointer), "detail": _short(error.detail)} for error in errors
        ]
    response = Response(json.dumps(document), status, mimetype=MEDIA_TYPE)
    response.headers.extend(dict(headers or {}))
    return response


def of(error: QanvasError) -> Response:
    """The problem that one of our own errors is; anything that is no client's doing is a 500."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), None)
    if status is None:
        return unexpected(error)
    if isinstance(error, InvalidInput):
        return problem(status, str(error), errors=error.errors)
    headers = {}
    if isinstance(error, Unavailable | Busy | Crowded | OverLimit):
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'Bearer realm="qanvas"'
    if isinstance(error, Unavailable):
        log.warning("503 for %s %s: %s", request.method, one_line(request.path), error)
        return problem(status, error.public, headers=headers)
    if isinstance(error, OverLimit):
        limit = {"name": error.name, "size": error.size}
        return problem(status, str(error), headers=headers, type="urn:qanvas:problem:over-limit", limit=limit)
    return problem(status, str(error), headers=headers)


def unexpected(error: Exception) -> Response:
    """A bug: the client gets an id, the log gets the id and the traceback."""
    error_id = f"err_{uuid.uuid4().hex}"
    log.error("%s in %s %s", error_id, request.method, one_line(request.path), exc_info=error)
    detail = f"this is a bug in Qanvas, not in your request; the server's log explains it under {error_id}"
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, detail, id=error_id)


def _of_http(error: HTTPException) -> ResponseReturnValue:
    if error.code is None or error.code < 400:  # a redirect is no error
        return error
    headers = {
        name: value for name, value in error.get_headers(request.environ) if name.lower() != "content-type"
    }
    detail = error.description or HTTPStatus(error.code).description
    if error.code == HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"{request.method} is not possible here; allowed are {headers.get('Allow', 'none')}"
    if error.code == HTTPStatus.NOT_FOUND:
        detail = "there is nothing at this path; /docs lists what there is"
    if isinstance(error, RequestedRangeNotSatisfiable):
        asked, size = request.headers.get("Range", ""), error.length or 0
        allowed = f"from 0 to {size - 1}" if size else "none, so ask without Range"
        detail = f"Range: {asked[:100]} begins behind the end; there are {size} bytes, {allowed}"
    return problem(error.code, detail, headers=headers)


def _short(text: str) -> str:
    return text if len(text) <= _ECHO else f"{text[:_ECHO]}…"


def install(app: Flask) -> None:
    """Answer every error of the app with a problem document."""
    app.register_error_handler(QanvasError, of)
    app.register_error_handler(HTTPException, _of_http)
    app.register_error_handler(Exception, unexpected)
