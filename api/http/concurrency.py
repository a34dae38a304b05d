"""How many requests are worked on at once, however many threads sleep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import InputStream, StartResponse, WSGIApplication, WSGIEnvironment


class Desks:
    """A semaphore whose waiting is done in C: every request takes a desk twice."""

    def __init__(self, count: int) -> None:
        self._free: SimpleQueue[None] = SimpleQueue()
        for _ in range(count):
            self.leave()

    def take(self) -> None:
        """Wait for a free desk."""
        self._free.get()

    def leave(self) -> None:
        """Let another request have it."""
        self._free.put(None)

    @contextmanager
    def left(self) -> Iterator[None]:
        """Let another request be worked on while this one waits."""
        self.leave()
        try:
            yield
        finally:
            self.take()


def at_desks(app: WSGIApplication, desks: Desks) -> WSGIApplication:
    """The application, each of whose requests needs a desk.

    What a response streams afterwards does not count, nor who waits for the rest of a request's body."""

    def handle(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["wsgi.input"] = _Body(environ["wsgi.input"], desks)
        desks.take()
        try:
            return app(environ, start_response)
        finally:
            desks.leave()

    return handle


class _Body:
    """A request's body, whose reader leaves its desk to others meanwhile: however many clients send slowly,
    each holds a thread that sleeps."""

    def __init__(self, body: InputStream, desks: Desks) -> None:
        self._body, self._desks = body, desks

    def read(self, size: int = -1, /) -> bytes:
        with self._desks.left():
            return self._body.read(size)
