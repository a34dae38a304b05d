"""The connections themselves: resolved by us, checked, pinned to what was checked, and ended in time."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address
from typing import Any

import httpcore

from shared.errors import Refused, Unreachable
from shared.outward.addresses import Address, check_address, literal

#: addresses of one name that are tried
_MOST_TRIED = 4

#: from a host and the seconds it may take to its addresses
Resolve = Callable[[str, float], Sequence[Address]]


class Deadline:
    """A moment after which nothing waits any more."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self, most: float | None = None) -> float:
        """Seconds, at most ``most``. Raises httpcore's ReadTimeout when there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("out of time")
        return left if most is None else min(left, most)


def resolve(host: str, seconds: float) -> Sequence[Address]:
    """All addresses of a name. Raises Unreachable: there is none, or nobody told in time.

    The C library knows no time limit, so that the question waits on a thread of its own."""
    found: list[Any] = []
    failed: list[OSError] = []

    def ask() -> None:
        try:
            found.extend(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            failed.append(error if isinstance(error, OSError) else OSError(str(error)))

    thread = threading.Thread(target=ask, name="resolve", daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise Unreachable(f"{host} has no address: {failed[0].strerror or failed[0]}")
    if not found:
        raise Unreachable(f"no address for {host} within {seconds:g} s")
    return list(dict.fromkeys(ip_address(entry[4][0].partition("%")[0]) for entry in found))


class Pinned(httpcore.NetworkBackend):
    """Connects by address only, after all addresses of the host were checked; for one request."""

    def __init__(self, deadline: Deadline, resolve: Resolve, *, allow_private: bool) -> None:
        self._deadline = deadline
        self._resolve = resolve
        self._allow_private = allow_private
        self._backend = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Raises Refused when any address of the host is one that is refused: a name that leads to both kinds
        is none that a user needs."""
        written = literal(host)
        addresses = [written] if written is not None else self._resolve(host, self._deadline.left(timeout))
        for address in addresses:
            check_address(address, host, allow_private=self._allow_private)
        error: Exception = Unreachable(f"{host} has no address")
        for address in addresses[:_MOST_TRIED]:
            try:
                stream = self._backend.connect_tcp(str(address), port, timeout=self._deadline.left(timeout))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as failure:
                error = failure
            else:
                return _Timed(stream, self._deadline)
        raise error

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.NetworkStream:
        raise Refused("a socket of this machine is nothing that a user may name")

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)


class _Timed(httpcore.NetworkStream):
    """A stream that ends with the deadline, however steadily a byte a second comes."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """``server_hostname`` is the URL's, never the address: the certificate must be that name's."""
        try:
            secured = self._stream.start_tls(ssl_context, server_hostname, self._deadline.left(timeout))
        except httpcore.ConnectError as error:
            if isinstance(error.__cause__, ssl.SSLCertVerificationError):
                why = error.__cause__.verify_message
                raise Unreachable(f"its certificate does not hold: {why}", temporary=False) from None
            raise
        return _Timed(secured, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
