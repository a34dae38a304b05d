"""Jobs that wait without a ticket are taken from the database itself: Redis may be full, hang or be away.

With tickets about, it does nothing: they are faster, and spread the jobs over all workers.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from shared.errors import Unavailable
from shared.jobs.store import JobStore
from shared.messaging.tickets import Tickets

log = logging.getLogger(__name__)


class Ticketless:
    """Looks every few seconds whether jobs can be claimed for which no ticket lies in Redis."""

    def __init__(
        self,
        *,
        queues: Sequence[str],
        slots: int,
        every: float,
        jobs: JobStore,
        tickets: Tickets,
        held: Callable[[], int],
        take: Callable[[str], None],
    ) -> None:
        """``every``: seconds between two looks. ``held``: how many jobs this worker has. ``take`` does what a
        ticket of a queue does, and returns when that is done."""
        self._queues = queues
        self._slots = slots
        self._every = every
        self._jobs = jobs
        self._tickets = tickets
        self._held = held
        self._take = take
        #: queues that the last look found without tickets: those of this moment may just be on their way
        self._lonely: set[str] = set()
        self._taking = threading.Semaphore(slots)
        self._pool = ThreadPoolExecutor(slots, thread_name_prefix="ticketless")
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._look_forever, name="ticketless", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Take nothing more, and wait for what was taken; it ends as all jobs of a worker that leaves."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()
        self._pool.shutdown()

    def look(self) -> None:
        """Take jobs of queues that had none of their tickets in Redis this time and last time.

        Raises Unavailable when the database does not answer."""
        before, self._lonely = self._lonely, set()
        free = self._slots - self._held()
        if free <= 0:
            return
        ready = self._jobs.ready(free)
        for queue in self._queues:
            if queue not in ready or self._has_tickets(queue):
                continue
            self._lonely.add(queue)
            if queue in before:
                self._begin(queue, min(ready[queue], free))

    def _begin(self, queue: str, count: int) -> None:
        log.info("%d jobs of queue %s wait without a ticket, taking them", count, queue)
        for _ in range(count):
            if self._closed.is_set() or not self._taking.acquire(blocking=False):
                return
            self._pool.submit(self._take_one, queue)

    def _take_one(self, queue: str) -> None:
        try:
            self._take(queue)
        except Unavailable as error:
            log.warning("no job taken from queue %s: %s", queue, error)
        except Exception:
            log.exception("no job taken from queue %s", queue)
        finally:
            self._taking.release()

    def _has_tickets(self, queue: str) -> bool:
        try:
            return self._tickets.waiting(queue) > 0
        except Unavailable:
            return False

    def _look_forever(self) -> None:
        while not self._closed.wait(self._every):
            try:
                self.look()
            except Unavailable as error:
                log.warning("not known which jobs wait without a ticket: %s", error)
            except Exception:
                log.exception("a look for jobs without a ticket failed")
