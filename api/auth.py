"""Who asks, and what they may do.

A server that only this machine can reach needs no key as long as none was made. Any web page that the user
visits can reach it too, though, so such a server answers only requests that name a loopback address as their
``Host`` (against DNS rebinding) and, where a browser sends it, as their ``Origin``.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from flask import Request

from api.services import Services
from shared.errors import Forbidden, Unauthorized
from shared.jobs.keys import SCOPES, Scope

_KEY_PREFIX = "qk_"


@dataclass(frozen=True, slots=True)
class Caller:
    tenant: str
    scopes: tuple[Scope, ...]


_KEYLESS = Caller("default", SCOPES)


def check(services: Services, request: Request, scope: Scope | None) -> Caller:
    """The caller, who may do what ``scope`` says; None lets everybody in.

    Raises Unauthorized for no key or one that does not hold, Forbidden for one that may not do this.
    """
    keyless = is_keyless(services)
    if keyless:
        _check_local(request)
    if scope is None:
        return _KEYLESS
    if (secret := _bearer(request)) is not None and (not keyless or secret.startswith(_KEY_PREFIX)):
        key = services.keys.verify(secret)
        if key is None:
            raise Unauthorized("this key is not known or was revoked; make one with: qanvas keys create NAME")
        if scope not in key.scopes and "admin" not in key.scopes:
            raise Forbidden(f"this key may {' and '.join(key.scopes) or 'do nothing'}; this needs {scope!r}")
        return Caller(key.tenant, key.scopes)
    if keyless:
        return _KEYLESS
    raise Unauthorized(
        "a key is needed: send Authorization: Bearer qk_…; make one with: qanvas keys create NAME"
    )


def is_keyless(services: Services) -> bool:
    """Whether requests without a key are answered."""
    return services.settings.is_loopback and not services.has_keys()


def _bearer(request: Request) -> str | None:
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" and secret.strip() else None


def _check_local(request: Request) -> None:
    named = {"Host": f"//{request.headers.get('Host', '')}", "Origin": request.headers.get("Origin")}
    for header, url in named.items():
        if url is not None and not _is_loopback(url):
            raise Forbidden(
                f"without keys this server answers local requests only, and {header} is "
                f"{request.headers.get(header, 'missing')}; use http://127.0.0.1, "
                "or make a key with: qanvas keys create NAME"
            )


def _is_loopback(url: str) -> bool:
    try:
        name = urlsplit(url).hostname or ""
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False
