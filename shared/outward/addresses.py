"""Which URLs and which addresses a user may send us to. Pure: nothing is resolved here."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import httpx

from shared.errors import Refused
from shared.outward.hosts import is_name

#: characters of a URL
MOST = 2048

Address = IPv4Address | IPv6Address

#: what ``ipaddress`` of Python 3.11 calls global and IANA's registries of special addresses do not
_NOT_GLOBAL = tuple(map(IPv4Network, ("192.0.0.0/24", "192.88.99.0/24")))
#: all of IPv6 that is given out, and what of it leads elsewhere: Teredo and its neighbours, documentation
_GIVEN_OUT = IPv6Network("2000::/3")
_ELSEWHERE = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "3fff::/20")))
#: prefixes whose addresses carry an IPv4 address, and the bits that lie behind it
_CARRIERS = (
    (IPv6Network("::ffff:0:0/96"), 0),  # IPv4-mapped, RFC 4291
    (IPv6Network("64:ff9b::/96"), 0),  # NAT64, RFC 6052
    (IPv6Network("2002::/16"), 80),  # 6to4, RFC 3056
)
#: private in the sense that an operator may allow; link-local is not among them: cloud metadata lives there
_PRIVATE = tuple(
    map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "100.64.0.0/10"))
) + tuple(map(IPv6Network, ("::1/128", "fc00::/7")))

#: what C libraries read as an IPv4 address, in whole or by its last part: 2130706433, 0x7f.1, 127.1
_NUMERIC = re.compile(r"(?:.*\.)?(?:0x[0-9a-f]*|[0-9]+)\.?", re.IGNORECASE)


def is_url(text: str) -> bool:
    """Whether it is meant as the URL of something to fetch."""
    return text[:7].lower() == "http://" or text[:8].lower() == "https://"


def check_url(text: str, *, allow_private: bool) -> httpx.URL:
    """The URL, parsed, if somebody may send us there as far as its text tells. Raises Refused, saying why.

    A name is judged again, by its addresses, when it is connected to."""
    if len(text) > MOST:
        raise Refused(f"the URL has {len(text)} characters; at most {MOST} are allowed")
    try:
        url = httpx.URL(text)
        host = url.host
    except (httpx.InvalidURL, ValueError) as error:
        raise Refused(f"this is no URL: {error}") from None
    if url.scheme not in ("http", "https"):
        raise Refused("the URL must begin with http:// or https://")
    if url.userinfo or "@" in _authority_of(text):
        raise Refused("the URL must not hold a user or a password")
    if not host:
        raise Refused("the URL names no host")
    # httpx lets all sorts of characters pass; "%" is also how a network interface is named
    if (url.netloc[:1] != b"[" and not is_name(url.raw_host.decode())) or "%" in host:
        raise Refused("the URL's host has characters that no name or address has")
    if url.port is not None and not 0 < url.port < 65536:
        raise Refused("the URL's port must be 1 to 65535")
    if (address := literal(host)) is not None:
        check_address(address, host, allow_private=allow_private)
    elif not allow_private and (host == "localhost" or host.endswith((".localhost", ".localhost."))):
        raise Refused(f"{host} is this machine itself, which a URL must not name")
    return url


def _authority_of(text: str) -> str:
    """What stands between ``//`` and the path, as it was written."""
    return re.split(r"[/?#\\]", text.partition("//")[2], maxsplit=1)[0]


def destination(text: str) -> str:
    """Host and port of a checked URL, the same however they are spelled; at most 255 characters."""
    url = httpx.URL(text)
    host = url.host.lower().rstrip(".")
    return (host if url.port is None else f"{host}:{url.port}")[:255]


def literal(host: str) -> Address | None:
    """The address that a host is written as; None for a name. Raises Refused for other ways to write one."""
    try:
        return ip_address(host)
    except ValueError:
        pass
    if _NUMERIC.fullmatch(host):
        raise Refused(f"{host} is a number, not a name; write an address in its plain form, as 203.0.113.7")
    return None


def check_address(address: Address, host: str, *, allow_private: bool) -> None:
    """Raises Refused for an address that no user may send us to; ``host`` is what led there."""
    if is_public(address) or (allow_private and _is_private(address)):
        return
    shown = host if host == str(address) else f"{host} leads to {address}, which"
    may = "" if allow_private or not _is_private(address) else "; its operator has not allowed private ones"
    raise Refused(f"{shown} is not a public address, and this server sends nothing there{may}")


def is_public(address: Address) -> bool:
    """Whether anybody on the Internet may be there."""
    if isinstance(address, IPv4Address):
        return (
            address.is_global
            and not (address.is_multicast or address.is_reserved)
            and not any(address in net for net in _NOT_GLOBAL)
        )
    if (carried := _carried(address)) is not None:
        return is_public(carried)
    return address in _GIVEN_OUT and not any(address in net for net in _ELSEWHERE)


def _is_private(address: Address) -> bool:
    carried = _carried(address) if isinstance(address, IPv6Address) else None
    real = address if carried is None else carried
    return any(real in net for net in _PRIVATE if net.version == real.version)


def _carried(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that packets to this one end at."""
    for net, shift in _CARRIERS:
        if address in net:
            return IPv4Address(int(address) >> shift & 0xFFFFFFFF)
    return None
