"""How requests are sent, repeated and given up, without sending anything: this module does no I/O.

A call is a generator, a ``Flow``: it yields a ``Request``, is sent the response or thrown the transport's
error, and returns its result. ``qanvas.transport`` runs flows, with and without asyncio.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, TypeVar

import httpx

from qanvas import errors

T = TypeVar("T")
Flow = Generator["Request", httpx.Response, T]

#: what can be sent as a file
FileSource = Path | bytes | IO[bytes]

#: seconds before the first repetition at most; it doubles with each one, up to the longest
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 8.0
#: statuses by which a server says that it did nothing
_REFUSED = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)
#: statuses by which a proxy says that it does not know what the server did
_UNKNOWN = (httpx.codes.BAD_GATEWAY, httpx.codes.GATEWAY_TIMEOUT)


@dataclass(frozen=True, slots=True)
class Upload:
    """A file to send as multipart form data. A ``Path`` is opened when the request is sent."""

    source: FileSource
    filename: str
    purpose: str


@dataclass(frozen=True, slots=True)
class Request:
    """``delay`` and ``timeout`` are in seconds: the wait before sending, and for the answer (None: any time).
    ``repeatable``: sending it twice does the same as sending it once."""

    method: str
    path: str
    params: Mapping[str, str | int | float] = field(default_factory=dict)
    json: Any = None
    upload: Upload | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float | None = 30.0
    delay: float = 0.0
    repeatable: bool = False


@dataclass(frozen=True, slots=True)
class Patience:
    """``url`` is the server's address, for messages; ``seconds`` how long a call waits, all its pauses
    together, before it gives up; 0: every call is sent once."""

    url: str
    seconds: float = 30.0

    def delay(self, failure: errors.QanvasError, tries: int, waited: float) -> float | None:
        """Seconds to wait after a number of failed ``tries``, or None: give up."""
        wanted = failure.retry_after if isinstance(failure, errors.APIError) else None
        most = min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** (tries - 1))
        delay = max(wanted or 0.0, random.uniform(most / 2, most))
        return delay if waited + delay <= self.seconds else None


def call(request: Request, patience: Patience) -> Flow[httpx.Response]:
    """Send a request until it is answered. Raises APIError for a refusal and NoAnswer for silence."""
    tries, waited = 0, 0.0
    repeatable = request.repeatable or request.method == "GET"
    while True:
        failure: errors.QanvasError
        try:
            response = yield request
        except httpx.TransportError as error:
            failure = errors.from_transport(error, patience.url)
            again = repeatable or not failure.connected
        else:
            if not response.is_error:
                return response
            status = response.status_code
            failure = errors.from_response(response)
            again = status in _REFUSED or (repeatable and status in _UNKNOWN)
        tries += 1
        delay = patience.delay(failure, tries, waited) if again else None
        if delay is None:
            raise failure
        waited += delay
        request = replace(request, delay=delay)


def call_json(request: Request, patience: Patience) -> Flow[dict[str, Any]]:
    """Send a request and return the JSON object of its answer."""
    response = yield from call(request, patience)
    try:
        document = response.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        message = f"{patience.url} answered something other than a JSON object; is it a Qanvas server?"
        raise errors.APIError(response.status_code, {}, message)
    return document
