"""Whether this worker can keep what it computes: its storage takes files, and its scratch folder has room.

While it cannot, it takes no jobs. A job that met the trouble is handed back, and its attempt does not count.
"""

from __future__ import annotations

import logging
import threading

from shared.errors import Unavailable
from shared.storage import Storage, check_writable
from worker.attempts.scratch import Scratch
from worker.health.disk_full import no_room

log = logging.getLogger(__name__)

#: seconds between two looks whether the trouble is over, at first and at most: they grow while jobs that are
#: taken after a look meet the trouble again, as where a look finds room and a large result does not
_FIRST, _LONGEST = 1.0, 60.0


class WriteProbe:
    """Any thread. Its own thread runs only while there is trouble."""

    def __init__(self, storage: Storage, scratch: Scratch) -> None:
        self._storage = storage
        self._scratch = scratch
        self._trouble: str | None = None
        self._wait = _FIRST
        self._lock = threading.Lock()
        self._fit = threading.Event()
        self._fit.set()
        self._closed = threading.Event()

    @property
    def trouble(self) -> str | None:
        """What is wrong, in words that name no path; None while jobs are taken."""
        return self._trouble

    def wait(self, seconds: float) -> bool:
        """Whether jobs are taken: as soon as they are, and after so many seconds at most."""
        return self._fit.wait(seconds)

    def report(self, error: BaseException) -> bool:
        """Writing something failed; whether that is the worker's trouble: a disk that is full or read-only,
        or a storage or a scratch folder that takes no other file either. Then no more jobs are taken."""
        if self._trouble is None and (found := self._trouble_behind(error)) is not None:
            with self._lock:
                if self._trouble is None:
                    self._begin(found)
        return self._trouble is not None

    def stored(self) -> None:
        """A result was stored: the next trouble is a new one."""
        self._wait = _FIRST

    def close(self) -> None:
        """Look no more; whoever waits goes on waiting."""
        self._closed.set()

    def _begin(self, found: Unavailable) -> None:
        self._trouble = found.message
        self._fit.clear()
        log.error("no jobs are taken until this is mended: %s", found)
        threading.Thread(target=self._recover, name="fitness", daemon=True).start()

    def _trouble_behind(self, error: BaseException) -> Unavailable | None:
        found = self._look()
        if found is None and no_room(error):  # room for a small file is not enough
            found = Unavailable("a disk of this worker is full", f"{error}; free some space there")
        return found

    def _look(self) -> Unavailable | None:
        """What cannot be written now."""
        try:
            check_writable(self._storage)
            self._scratch.check_writable()
        except Unavailable as error:
            return error
        except Exception as error:
            log.exception("what is computed cannot be stored")
            return Unavailable("what is computed cannot be stored", repr(error))
        return None

    def _recover(self) -> None:
        while not self._closed.wait(self._wait):
            if self._look() is None:
                self._wait = min(2 * self._wait, _LONGEST)
                self._trouble = None
                self._fit.set()
                log.warning("what is computed can be stored again: jobs are taken")
                return
