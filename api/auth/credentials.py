"""Who asks, and what they may do.

A server that only this machine can reach needs no key as long as none was made. Any web page that the user
visits can reach it too, though, so such a server answers only requests that name a loopback address, or a
host that the operator trusts, as their ``Host`` (against DNS rebinding) and, where a browser sends it, as
their ``Origin``; and none of which a browser says that another site asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_address
from typing import Protocol

from flask import Request

from api.auth.caller import Caller
from api.server.client import Client
from shared.accounts.keys import SCOPES, KeyStore, Scope
from shared.errors import Forbidden, Unauthorized
from shared.outward.hosts import authority
from shared.settings import Settings

_KEY_PREFIX = "qk_"


class KeyNeeded(Unauthorized):
    """No key was given; each dialect says where one belongs."""


@lru_cache(maxsize=256)  # the same address asks again and again
def _keyless(address: str) -> Caller:
    return Caller("default", SCOPES, "local", address)


class Access(Protocol):
    """What decides about credentials."""

    settings: Settings
    keys: KeyStore

    def is_keyed(self) -> bool:
        """Whether a key was ever made."""


#: how a dialect finds the secret that a request brings; None where it brings none
SecretOf = Callable[[Request], str | None]


def check(access: Access, request: Request, scope: Scope | None, secret_of: SecretOf) -> Caller:
    """The caller, who may do what ``scope`` says; None lets everybody in.

    Raises Unauthorized for no key or one that does not hold, Forbidden for one that may not do this.
    """
    client: Client | None = request.environ.get("qanvas.client")  # there is none where no server runs the app
    address = client.network if client is not None else ""
    found = _keyless("") if scope is None else _who(access, request, scope, address, secret_of)
    if client is not None:
        client.holder = found.waits_as
    return found


def _who(access: Access, request: Request, scope: Scope, address: str, secret_of: SecretOf) -> Caller:
    keyless = is_keyless(access)
    if keyless:
        _check_local(request, access.settings.trusted_hosts)
    if (secret := secret_of(request)) is not None and (not keyless or secret.startswith(_KEY_PREFIX)):
        key = access.keys.verify(secret)
        if key is None:
            raise Unauthorized("this key is not known or was revoked; make one with: qanvas keys create NAME")
        if scope not in key.scopes and "admin" not in key.scopes:
            raise Forbidden(f"this key may {' and '.join(key.scopes) or 'do nothing'}; this needs {scope!r}")
        return Caller(key.tenant, key.scopes, key.id, key.id)
    if keyless:
        return _keyless(address)
    raise KeyNeeded("a key is needed; make one with: qanvas keys create NAME")


def is_keyless(access: Access) -> bool:
    """Whether requests without a key are answered."""
    return access.settings.is_loopback and not access.is_keyed()


def bearer(request: Request) -> str | None:
    """The secret of ``Authorization: Bearer …`` (RFC 6750)."""
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" and secret.strip() else None


def _check_local(request: Request, trusted: tuple[str, ...]) -> None:
    """Raises Forbidden for what a web page that this machine's user visits could send."""
    host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
    if not _is_known(host, trusted):
        raise _foreign("Host", host)
    if origin is not None:
        if not _is_known(_host_of(origin), trusted):
            raise _foreign("Origin", origin)
    elif (site := request.headers.get("Sec-Fetch-Site")) == "cross-site":
        raise _foreign("Sec-Fetch-Site", site)


def _foreign(header: str, value: str) -> Forbidden:
    return Forbidden(
        f"without keys this server answers local requests only, and {header} is {value[:100] or 'missing'}; "
        "use http://127.0.0.1, name the host in QANVAS_TRUSTED_HOSTS, or make a key with: "
        "qanvas keys create NAME"
    )


@lru_cache(maxsize=256)  # clients say the same with each request; ``host_checks`` bounds how much
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
