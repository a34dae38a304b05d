"""Every error that the client raises on purpose.

* QanvasError
  - NoAnswer               the server cannot be reached, or the connection broke
  - InvalidAddress         the server's address is none
  - WaitTimeout            a job did not end in the time that the caller gave
  - JobFailed              a job that ``run`` waited for ended without success
  - APIError               the server answered with a problem document (RFC 9457)
    · BadRequest (400)  Unauthorized (401)  Forbidden (403)  NotFound (404)  Conflict (409)  TooLarge (413)
      UnsupportedMediaType (415)  InvalidInput (422)  OverLimit (429)
    · ServerError (5xx)
      - Unavailable (503)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from qanvas.records import JobRecord


class QanvasError(Exception):
    """The root of all errors of this package."""


class NoAnswer(QanvasError):
    """``url`` is the server's address. ``connected``: the request may have reached the server."""

    def __init__(self, message: str, *, url: str, connected: bool) -> None:
        super().__init__(message)
        self.url, self.connected = url, connected


class InvalidAddress(QanvasError):
    pass


class WaitTimeout(QanvasError, TimeoutError):
    """The job goes on. ``job`` is the latest state that the client has seen."""

    def __init__(self, job: JobRecord, seconds: float) -> None:
        super().__init__(f"job {job.id} is still {job.status} after {seconds:g} s")
        self.job = job


class JobFailed(QanvasError):
    """``job`` is the ended job; its ``error`` says why."""

    def __init__(self, job: JobRecord) -> None:
        reason = (job.error.message or job.error.type) if job.error else ""
        super().__init__(f"job {job.id} {job.status}" + (f": {reason}" if reason else ""))
        self.job = job


@dataclass(frozen=True, slots=True)
class FieldError:
    """One fault of one field: a JSON pointer into the request body and what is allowed there."""

    pointer: str
    detail: str


class APIError(QanvasError):
    """``status`` is the HTTP status, ``type`` the problem's URI, ``errors`` the faults of single fields,
    ``retry_after`` the seconds after which the server wants to be asked again, or None. ``problem`` is the
    whole document, empty where the answer is none."""

    def __init__(
        self, status: int, problem: Mapping[str, Any], message: str, *, retry_after: float | None = None
    ) -> None:
        self.status, self.problem, self.retry_after = status, problem, retry_after
        self.type = str(problem.get("type") or "about:blank")
        self.detail = str(problem.get("detail") or problem.get("title") or message)
        self.errors = tuple(_field_errors(problem))
        super().__init__("\n".join([self.detail, *(f"  {e.pointer}: {e.detail}" for e in self.errors)]))


class BadRequest(APIError):
    pass


class Unauthorized(APIError):
    pass


class Forbidden(APIError):
    pass


class NotFound(APIError):
    pass


class Conflict(APIError):
    pass


class TooLarge(APIError):
    pass


class UnsupportedMediaType(APIError):
    pass


class InvalidInput(APIError):
    pass


class OverLimit(APIError):
    pass


class ServerError(APIError):
    pass


class Unavailable(ServerError):
    pass


_BY_STATUS: Mapping[int, type[APIError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    415: UnsupportedMediaType,
    422: InvalidInput,
    429: OverLimit,
    503: Unavailable,
}


def from_response(response: httpx.Response) -> APIError:
    """The error that a read response with a status of 400 or above stands for."""
    try:
        problem = response.json()
    except ValueError:
        problem = {}
    if not isinstance(problem, dict):
        problem = {}
    status = response.status_code
    kind = _BY_STATUS.get(status, ServerError if status >= 500 else APIError)
    message = f"the server answered {status} {response.reason_phrase}"
    return kind(status, problem, message, retry_after=_seconds(response.headers.get("Retry-After")))


def from_transport(error: httpx.TransportError, url: str) -> NoAnswer:
    """The error that a failure below HTTP stands for."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        return NoAnswer(f"no server answers at {url}", url=url, connected=False)
    said = str(error) or type(error).__name__
    return NoAnswer(f"the server at {url} did not answer: {said}", url=url, connected=True)


def _seconds(text: str | None) -> float | None:
    """``Retry-After`` in seconds. The server never sends a date, and a proxy's date is not worth the code."""
    return float(text) if text is not None and text.isdecimal() else None


def _field_errors(problem: Mapping[str, Any]) -> list[FieldError]:
    found = problem.get("errors")
    return [
        FieldError(str(one.get("pointer", "")), str(one.get("detail", "")))
        for one in (found if isinstance(found, list) else ())
        if isinstance(one, dict)
    ]
