"""Who asks, and what they may do.

A server that only this machine can reach needs no key as long as none was made. Any web page that the user
visits can reach it too, though, so such a server answers only requests that name a loopback address, or a
host that the operator trusts, as their ``Host`` (against DNS rebinding) and, where a browser sends it, as
their ``Origin``; and none of which a browser says that another site asks for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from flask import Request, g

from api.server.client import Client
from api.services import Services
from shared.errors import Forbidden, Unauthorized
from shared.jobs.keys import SCOPES, Scope

_KEY_PREFIX = "qk_"


@dataclass(frozen=True, slots=True)
class Caller:
    tenant: str
    scopes: tuple[Scope, ...]
    #: whose rates its requests count for: a key's id, or all that come without one
    counted_as: str
    #: whose share its waiting takes: a key's id, or where no key is needed the address that it comes from
    waits_as: str

    @property
    def is_admin(self) -> bool:
        return "admin" in self.scopes


@lru_cache(maxsize=256)  # the same address asks again and again
def _keyless(address: str) -> Caller:
    return Caller("default", SCOPES, "local", address)


def caller() -> Caller:
    """Who asks in the current request, which ``check`` has let in."""
    found: Caller = g.qanvas_caller
    return found


def check(services: Services, request: Request, scope: Scope | None) -> Caller:
    """The caller, who may do what ``scope`` says; None lets everybody in.

    Raises Unauthorized for no key or one that does not hold, Forbidden for one that may not do this.
    """
    client: Client | None = request.environ.get("qanvas.client")  # there is none where no server runs the app
    address = client.network if client is not None else ""
    g.qanvas_caller = found = _keyless("") if scope is None else _who(services, request, scope, address)
    if client is not None:
        client.holder = found.waits_as
    return found


def _who(services: Services, request: Request, scope: Scope, address: str) -> Caller:
    keyless = is_keyless(services)
    if keyless:
        _check_local(request, services.settings.trusted_hosts)
    if (secret := _bearer(request)) is not None and (not keyless or secret.startswith(_KEY_PREFIX)):
        key = services.keys.verify(secret)
        if key is None:
            raise Unauthorized("this key is not known or was revoked; make one with: qanvas keys create NAME")
        if scope not in key.scopes and "admin" not in key.scopes:
            raise Forbidden(f"this key may {' and '.join(key.scopes) or 'do nothing'}; this needs {scope!r}")
        return Caller(key.tenant, key.scopes, key.id, key.id)
    if keyless:
        return _keyless(address)
    raise Unauthorized(
        "a key is needed: send Authorization: Bearer qk_…; make one with: qanvas keys create NAME"
    )


def is_keyless(services: Services) -> bool:
    """Whether requests without a key are answered."""
    return services.settings.is_loopback and not services.has_keys()


def _bearer(request: Request) -> str | None:
    scheme, _, secret = request.environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" and secret.strip() else None


def _check_local(request: Request, trusted: tuple[str, ...]) -> None:
    """Raises Forbidden for what a web page that this machine's user visits could send."""
    given = request.environ  # as the server gives them: Werkzeug's headers look for each under two names
    host, origin = given.get("HTTP_HOST", ""), given.get("HTTP_ORIGIN")
    if not _is_known(f"//{host}", trusted):
        raise _foreign("Host", host)
    if origin is not None:
        if not _is_known(origin, trusted):
            raise _foreign("Origin", origin)
    elif (site := given.get("HTTP_SEC_FETCH_SITE")) == "cross-site":
        raise _foreign("Sec-Fetch-Site", site)


def _foreign(header: str, value: str) -> Forbidden:
    return Forbidden(
        f"without keys this server answers local requests only, and {header} is {value[:100] or 'missing'}; "
        "use http://127.0.0.1, name the host in QANVAS_TRUSTED_HOSTS, or make a key with: "
        "qanvas keys create NAME"
    )


@lru_cache(maxsize=256)  # clients say the same with each request
def _is_known(url: str, trusted: tuple[str, ...]) -> bool:
    try:
        name = urlsplit(url).hostname or ""
        return name == "localhost" or name in trusted or ip_address(name).is_loopback
    except ValueError:
        return False
