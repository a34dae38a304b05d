"""The parts put together: a listener, the loop that reads requests, and threads that answer them."""

from __future__ import annotations

import logging
import socket
from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING

from api.server.acceptor import Acceptor
from api.server.answers import answer
from api.server.client import Client, Gone
from api.server.fair_slots import FairSlots
from api.server.requests import Reading
from api.server.threads import Threads

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

log = logging.getLogger(__name__)

#: threads for each urgent path, which answer nothing else
_URGENT_THREADS = 4


class Server:
    """Serves ``app`` on a bound and listening socket, and ``urgent_app`` at the paths ``urgent``.

    ``threads`` answer, which includes those that wait for something else than the client. As many as ``slow``
    more may wait for clients: for a body to come, or for an answer to be taken. ``patience`` is in seconds.
    """

    def __init__(
        self,
        listener: socket.socket,
        app: WSGIApplication,
        *,
        urgent_app: WSGIApplication,
        urgent: Collection[bytes],
        threads: int,
        slow: int,
        connections: int,
        patience: float,
    ) -> None:
        name = listener.getsockname()
        self._address = (str(name[0]), str(name[1]))
        self._threads = Threads(threads + slow, "request")
        self._urgent_threads = {path: Threads(_URGENT_THREADS, path.decode()) for path in urgent}
        self._acceptor = Acceptor(
            listener,
            most=connections,
            patience=patience,
            slow=FairSlots(slow),
            work=partial(self._answer_on, self._threads, app),
            hurry=partial(self._hurry, urgent_app),
            urgent=urgent,
        )

    def run(self, grace: float) -> None:
        """Serve until ``stop``, and then for at most ``grace`` seconds those who are being answered."""
        self._acceptor.run(grace)

    def stop(self) -> None:
        """Accept nothing more; for signal handlers and other threads."""
        self._acceptor.stop()

    def _hurry(self, app: WSGIApplication, client: Client, reading: Reading) -> None:
        self._answer_on(self._urgent_threads[reading.path], app, client, reading)

    def _answer_on(self, threads: Threads, app: WSGIApplication, client: Client, reading: Reading) -> None:
        threads.run(partial(self._answer, app, client, reading))

    def _answer(self, app: WSGIApplication, client: Client, reading: Reading) -> None:
        try:
            may_go_on = answer(app, client, reading, self._address)
        except Gone:
            self._acceptor.drop(client, reading)
        except BaseException:
            log.exception("a request could not be answered")
            self._acceptor.drop(client, reading)
        else:
            self._acceptor.release(client, reading, may_go_on=may_go_on)
