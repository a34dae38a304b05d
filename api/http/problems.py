"""Every error as a problem, of which each dialect makes its own document. A bug is a 500 with an id that the
log explains."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from flask import Flask, Request, Response, request
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What went wrong with a request."""

    status: int
    detail: str
    #: faults of the input, each with its place
    errors: Sequence[FieldError] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    #: what else there is to say, as JSON
    members: Mapping[str, Any] = field(default_factory=dict)
    #: what was raised
    error: Exception | None = None


#: how a dialect answers with a problem
Render = Callable[[Problem], Response]


def of(error: QanvasError) -> Problem:
    """The problem that one of our own errors is; anything that is no client's doing is a 500."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), None)
    if status is None:
        return unexpected(error)
    if isinstance(error, InvalidInput):
        return Problem(status=status, detail=str(error), errors=error.errors, error=error)
    headers = {}
    if isinstance(error, Unavailable | Busy | Crowded | OverLimit):
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, Unavailable):
        log.warning("503 for %s %s: %s", request.method, one_line(request.path), error)
        return Problem(status=status, detail=error.public, headers=headers, error=error)
    members = {}
    if isinstance(error, OverLimit):
        members["limit"] = {"name": error.name, "size": error.size}
    return Problem(status=status, detail=str(error), headers=headers, members=members, error=error)


def unexpected(error: Exception) -> Problem:
    """A bug: the client gets an id, the log gets the id and the traceback."""
    error_id = f"err_{uuid.uuid4().hex}"
    log.error("%s in %s %s", error_id, request.method, one_line(request.path), exc_info=error)
    detail = f"this is a bug in Qanvas, not in your request; the server's log explains it under {error_id}"
    return Problem(
        status=HTTPStatus.INTERNAL_SERVER_ERROR, detail=detail, members={"id": error_id}, error=error
    )


def _of_http(error: HTTPException, status: int) -> Problem:
    headers = {
        name: value for name, value in error.get_headers(request.environ) if name.lower() != "content-type"
    }
    detail = error.description or HTTPStatus(status).description
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"{request.method} is not possible here; allowed are {headers.get('Allow', 'none')}"
    if status == HTTPStatus.NOT_FOUND:
        detail = "there is nothing at this path; /docs lists what there is"
    if isinstance(error, RequestedRangeNotSatisfiable):
        asked, size = request.headers.get("Range", ""), error.length or 0
        allowed = f"from 0 to {size - 1}" if size else "none, so ask without Range"
        detail = f"Range: {asked[:100]} begins behind the end; there are {size} bytes, {allowed}"
    return Problem(status=status, detail=detail, headers=headers, error=error)


def install(app: Flask, render_of: Callable[[Request], Render]) -> None:
    """Answer every error of the app in the dialect of the request."""

    def answer(problem: Problem) -> Response:
        return render_of(request)(problem)

    def answer_http(error: HTTPException) -> ResponseReturnValue:
        if error.code is None or error.code < 400:  # a redirect is no error
            return error
        return answer(_of_http(error, error.code))

    app.register_error_handler(QanvasError, lambda error: answer(of(error)))
    app.register_error_handler(HTTPException, answer_http)
    app.register_error_handler(Exception, lambda error: answer(unexpected(error)))
