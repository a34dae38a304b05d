"""How many requests are worked on at once, however many threads wait for clients or jobs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Semaphore
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import InputStream, StartResponse, WSGIApplication, WSGIEnvironment


class ActiveRequests:
    """A semaphore: so many requests are worked on at once."""

    def __init__(self, count: int) -> None:
        self._free = Semaphore(count)

    def begin(self) -> None:
        """Wait until one more request may be worked on."""
        self._free.acquire()

    def end(self) -> None:
        """Let another request be worked on."""
        self._free.release()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let another request be worked on while this one waits."""
        self.end()
        try:
            yield
        finally:
            self.begin()


def limited(app: WSGIApplication, active: ActiveRequests) -> WSGIApplication:
    """The application, of whose requests so many are worked on at once.

    What a response streams afterwards does not count, nor who waits for the rest of a request's body."""

    def handle(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["wsgi.input"] = _Body(environ["wsgi.input"], active)
        active.begin()
        try:
            return app(environ, start_response)
        finally:
            active.end()

    return handle


class _Body:
    """A request's body. While its reader waits for more of it, the request does not count as active: however
    many clients send slowly, each holds a thread that sleeps."""

    def __init__(self, body: InputStream, active: ActiveRequests) -> None:
        self._body, self._active = body, active

    def read(self, size: int = -1, /) -> bytes:
        with self._active.paused():
            return self._body.read(size)
