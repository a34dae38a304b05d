"""Whether submissions are accepted and kept: what the API rests on is asked to take a small write.

Each part is asked on a thread and over connections of its own, once at a time and once in a while, however
often the API is asked. All of them together have less than a second to answer, so that a part that hangs is
named in time, and holds up nobody.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from api.usecases.services import Services
from shared.db.named_locks import NamedLocks
from shared.errors import Unavailable
from shared.storage import check_writable

log = logging.getLogger(__name__)

#: seconds for which an answer is believed, of a storage more: its write waits for the disk, or costs money
_FRESH, _FRESH_STORAGE = 1.0, 5.0
#: seconds that a part may take to answer
_PATIENCE = 0.8


class Part:
    """One of the things that the API rests on."""

    def __init__(self, check: Callable[[], object], seconds: float, silent: Unavailable) -> None:
        """``check`` raises Unavailable; what it finds is believed for so many ``seconds``. ``silent`` is what
        is wrong where it does not return in time."""
        self._check = check
        self._seconds = seconds
        self._silent = silent
        self._lock = threading.Lock()
        self._found: Unavailable | None = None
        self._until = 0.0
        #: set when nobody is being asked
        self._idle = threading.Event()
        self._idle.set()
        self._asked = 0.0  # when, by time.monotonic

    def look(self) -> None:
        """Ask, unless the last answer is fresh or still awaited. Does not wait."""
        with self._lock:
            if time.monotonic() < self._until or not self._idle.is_set():
                return
            self._asked = time.monotonic()
            self._idle.clear()
        threading.Thread(target=self._ask, name="readiness", daemon=True).start()

    def trouble(self) -> Unavailable | None:
        """What is wrong, once it has answered, or has not for too long."""
        if not self._idle.wait(max(0.0, self._asked + _PATIENCE - time.monotonic())):
            return self._silent
        return self._found

    def _ask(self) -> None:
        found: Unavailable | None = None
        try:
            self._check()
        except Unavailable as error:
            found = error
        except Exception as error:  # noqa: BLE001 - whatever it is, a submission would meet it too
            found = Unavailable("something that submissions need does not work", repr(error))
        if found is not None and self._found is None:
            log.warning("not ready: %s", found)
        self._found, self._until = found, time.monotonic() + self._seconds
        self._idle.set()


class Readiness:
    def __init__(self, services: Services) -> None:
        locks = NamedLocks(services.asking)
        self._needed = (
            # an update of one small row, which no crash has to survive
            Part(
                lambda: locks.try_lock("readyz", "readyz", _FRESH),
                _FRESH,
                silent=Unavailable("the database does not answer in time"),
            ),
            # inputs are stored before the job is committed
            Part(
                lambda: check_writable(services.storage),
                _FRESH_STORAGE,
                silent=Unavailable("the storage does not answer in time"),
            ),
        )
        self._wanted = (
            Part(services.tickets.ping, _FRESH, silent=Unavailable("Redis does not answer in time")),
        )

    def degraded(self) -> list[str]:
        """What does not work though submissions are accepted and kept. Raises Unavailable where they are
        not."""
        for part in (*self._needed, *self._wanted):
            part.look()
        for part in self._needed:
            if (trouble := part.trouble()) is not None:
                raise trouble
        return [trouble.public for part in self._wanted if (trouble := part.trouble()) is not None]
