"""Requests to where a user said, over httpcore: it speaks HTTP and TLS, we decide where it connects.

No redirects, cookies, proxies, or decoding: what comes is what the other side sent, within the limits.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import httpcore
import httpx

from shared.errors import Unreachable
from shared.outward.addresses import check_url
from shared.outward.wire import Deadline, Pinned, Resolve, resolve
from shared.version import VERSION

_AGENT = f"Qanvas/{VERSION}"


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds to connect to one address, between two pieces of an answer, and for all of it; bytes of the
    answer's body."""

    connect: float = 5.0
    read: float = 15.0
    total: float = 20.0
    bytes: int = 1 << 20


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer whose body is still to come; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    #: the body in pieces. Raises Unreachable when it stops, or grows past the limit.
    chunks: Iterator[bytes]


class Outward:
    """One connection for each request. Shared by any number of threads."""

    def __init__(
        self, *, allow_private: bool, resolve: Resolve = resolve, trust: ssl.SSLContext | None = None
    ):
        """``resolve`` and ``trust``, the certificates, are for tests and houses with a CA of their own."""
        self._allow_private = allow_private
        self._resolve = resolve
        self._trust = trust
        self._loading = threading.Lock()

    @contextmanager
    def send(
        self,
        method: str,
        url: str,
        *,
        limits: Limits,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> Iterator[Reply]:
        """One request, answered by whoever is there, a redirect included.

        Raises Refused where a user may not send us, Unreachable where nobody answers in time or the
        connection breaks. Both say what happened, without the URL: it may hold a secret."""
        target = check_url(url, allow_private=self._allow_private)
        deadline = Deadline(limits.total)
        backend = Pinned(deadline, self._resolve, allow_private=self._allow_private)
        timeouts = {
            "connect": limits.connect,
            "read": limits.read,
            "write": limits.read,
            "pool": limits.total,
        }
        sent = {"User-Agent": _AGENT, "Accept": "*/*", "Accept-Encoding": "identity", **(headers or {})}
        with (
            _translated(limits),
            httpcore.ConnectionPool(
                # reading the certificates takes long: once, and only where they are needed
                ssl_context=self._certificates() if target.scheme == "https" else None,
                network_backend=backend,
                max_keepalive_connections=0,
            ) as pool,
            pool.stream(
                method,
                _without_fragment(target),
                headers=[("Host", target.netloc.decode("ascii")), *sent.items()],
                content=content,
                extensions={"timeout": timeouts},
            ) as response,
        ):
            yield Reply(response.status, _headers(response.headers), _pieces(response, limits))

    def _certificates(self) -> ssl.SSLContext:
        with self._loading:
            if self._trust is None:
                self._trust = httpx.create_ssl_context()
            return self._trust


def _without_fragment(url: httpx.URL) -> httpcore.URL:
    return httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


def _headers(raw: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in raw}


def _pieces(response: httpcore.Response, limits: Limits) -> Iterator[bytes]:
    size = 0
    with _translated(limits):
        for piece in response.iter_stream():
            size += len(piece)
            if size > limits.bytes:
                raise Unreachable(f"the answer is larger than {limits.bytes} bytes", temporary=False)
            yield piece


@contextmanager
def _translated(limits: Limits) -> Iterator[None]:
    """httpcore's errors in our words."""
    try:
        yield
    except httpcore.TimeoutException:
        raise Unreachable(
            f"no answer in time: {limits.connect:g} s to connect, {limits.read:g} s between two pieces, "
            f"{limits.total:.3g} s in all"
        ) from None
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
        raise Unreachable(f"the connection failed: {str(error) or type(error).__name__}") from None
