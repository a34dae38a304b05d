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

from flask import Request, g

from api.server.client import Client
from api.services import Services
from shared.accounts.keys import SCOPES, Scope
from shared.errors import Forbidden, Unauthorized
from shared.outward.hosts import authority

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

    @property
    def may_read(self) -> bool:
        """Whether it may see what others of its tenant sent, and what became of it."""
        return "read" in self.scopes or self.is_admin


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


def check_may_read(caller: Caller) -> None:
    """Raises Forbidden for a key that may not read: what it asks for tells of more than it sent."""
    if not caller.may_read:
        raise Forbidden(f"this key may {' and '.join(caller.scopes)}; this needs 'read' as well")


def is_keyless(services: Services) -> bool:
    """Whether requests without a key are answered."""
    return services.settings.is_loopback and not services.is_keyed()


def _bearer(request: Request) -> str | None:
    scheme, _, secret = request.environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" and secret.strip() else None


def _check_local(request: Request, trusted: tuple[str, ...]) -> None:
    """Raises Forbidden for what a web page that this machine's user visits could send."""
    given = request.environ  # as the server gives them: Werkzeug's headers look for each under two names
    host, origin = given.get("HTTP_HOST", ""), given.get("HTTP_ORIGIN")
    if not _is_known(host, trusted):
        raise _foreign("Host", host)
    if origin is not None:
        if not _is_known(_host_of(origin), trusted):
            raise _foreign("Origin", origin)
    elif (site := given.get("HTTP_SEC_FETCH_SITE")) == "cross-site":
        raise _foreign("Sec-Fetch-Site", site)


def _foreign(header: str, value: str) -> Forbidden:
    return Forbidden(
        f"without keys this server answers local requests only, and {header} is {value[:100] or 'missing'}; "
        "use http://127.0.0.1, name the host in QANVAS_TRUSTED_HOSTS, or make a key with: "
        "qanvas keys create NAME"
    )


@lru_cache(maxsize=256)  # clients say the same with each request; ``gate`` bounds how much
def _is_known(text: str, trusted: tuple[str, ...]) -> bool:
    """Whether this is a host, perhaps with a port, that leads to this machine or is trusted."""
    if (found := authority(text)) is None:
        return False
    if found.host == "localhost" or found.host in map(str.lower, trusted):
        return True
    try:
        return ip_address(found.host).is_loopback
    except ValueError:
        return False


def _host_of(origin: str) -> str:
    """Host and port of an ``Origin`` (RFC 6454), empty for one that is none, as ``null``."""
    scheme, separator, host = origin.partition("://")
    return host if separator and scheme in ("http", "https") else ""
