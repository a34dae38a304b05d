"""What every request must be, whatever it asks for: for one host, and with headers that are soon read."""

from __future__ import annotations

from functools import lru_cache

from flask import Flask, request

from api.http.problems import BadRequest, HeaderTooLarge
from shared.outward.hosts import authority

#: characters that a header may have which is taken apart, and those headers as WSGI calls them
MOST = 1024
PARSED = (
    "CONTENT_TYPE",
    "HTTP_CONTENT_ENCODING",
    "HTTP_HOST",
    "HTTP_IDEMPOTENCY_KEY",
    "HTTP_IF_MATCH",
    "HTTP_IF_MODIFIED_SINCE",
    "HTTP_IF_NONE_MATCH",
    "HTTP_IF_RANGE",
    "HTTP_IF_UNMODIFIED_SINCE",
    "HTTP_LAST_EVENT_ID",
    "HTTP_ORIGIN",
    "HTTP_PREFER",
    "HTTP_RANGE",
    "HTTP_SEC_FETCH_SITE",
)


def install(app: Flask) -> None:
    """Let the app answer such requests alone."""
    app.before_request(_check)


def _check() -> None:
    """Raises HeaderTooLarge, and BadRequest for a ``Host`` that is missing, given twice, or no host.

    HTTP/1.0 knows no ``Host``: health checks of old load balancers come without one."""
    given = request.environ
    for name in PARSED:
        if len(given.get(name, "")) > MOST:
            shown = name.removeprefix("HTTP_").replace("_", "-").title()
            raise HeaderTooLarge(f"the header {shown} has more than {MOST} characters")
    host = given.get("HTTP_HOST", "")
    if not _is_host(host) and (host or given.get("SERVER_PROTOCOL") == "HTTP/1.1"):
        raise BadRequest(
            f"the Host header {host[:100]!r} is no host; it must be given once, as name, name:port, "
            "192.0.2.1 or [2001:db8::1]"
        )


@lru_cache(maxsize=256)  # clients say the same with each request
def _is_host(text: str) -> bool:
    return authority(text) is not None
