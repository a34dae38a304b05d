"""What follows ``//`` in a URL, and what a ``Host`` header is: a host and perhaps a port, and nothing else.

``urlsplit`` and its like read more into it: a user before ``@``, anything behind a backslash. Pure."""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import NamedTuple

#: characters of the longest one: a name, or an address in brackets, and a port
MOST = 253 + len(".:65535")

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,254}}\Z){_LABEL}(?:\.{_LABEL})*\.?")
_AUTHORITY = re.compile(
    r"(?:\[(?P<address>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[^:\[\]]*))(?::(?P<port>[0-9]{0,5}))?"
)


class Authority(NamedTuple):
    """``host`` is in lower case, an IPv6 address without brackets; ``port`` is None where none is given."""

    host: str
    port: int | None


def is_name(text: str) -> bool:
    """Whether this is a name that DNS may know, or an IPv4 address."""
    return _NAME.fullmatch(text) is not None


def authority(text: str) -> Authority | None:
    """``host[:port]`` of RFC 9110 in its strict reading; None for anything else."""
    found = _AUTHORITY.fullmatch(text) if len(text) <= MOST else None
    if found is None or (port := int(found["port"] or 0)) > 65535:
        return None
    if (address := found["address"]) is not None:
        try:
            IPv6Address(address)
        except ValueError:
            return None
    elif not is_name(found["name"]):
        return None
    return Authority((address or found["name"]).lower(), port or None)
