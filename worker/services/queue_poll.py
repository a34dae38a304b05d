"""Jobs that wait without a ticket are taken from the database itself: Redis may be full, hang or be away.

Where tickets of a queue lie in Redis it does nothing: they are faster, and spread the jobs over all workers.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from shared.errors import Unavailable
from shared.periodic_service import PeriodicService
from worker.attempts.context import WorkerContext

log = logging.getLogger(__name__)


class QueuePoll(PeriodicService):
    """Looks every few seconds whether jobs can be claimed for which no ticket lies in Redis."""

    def __init__(self, context: WorkerContext, take: Callable[[str], None]) -> None:
        """``take`` does what a ticket of a queue does, and returns when that is done."""
        super().__init__("queue poll", context.settings.upkeep_seconds, delay_first=True)
        self._queues = context.settings.queues
        self._slots = slots = context.settings.slots
        self._jobs = context.jobs
        self._tickets = context.tickets
        self._keeper = context.keeper
        self._take = take
        #: queues that the last look found without tickets: those of this moment may just be on their way
        self._without_tickets: set[str] = set()
        self._taking = threading.Semaphore(slots)
        self._pool = ThreadPoolExecutor(slots, thread_name_prefix="queue poll")

    def stop(self) -> None:
        """Take nothing more, and wait for what was taken; it ends as all jobs of a worker that leaves."""
        super().stop()
        self._pool.shutdown()

    def run_once(self) -> bool:
        """Take jobs of queues that had none of their tickets in Redis this time and last time.

        Raises Unavailable when the database does not answer."""
        before, self._without_tickets = self._without_tickets, set()
        free = self._slots - len(self._keeper.held())
        if free <= 0:
            return False
        ready = self._jobs.ready(free)
        for queue in self._queues:
            if queue not in ready or self._has_tickets(queue):
                continue
            self._without_tickets.add(queue)
            if queue in before:
                self._begin(queue, min(ready[queue], free))
        return False

    def _begin(self, queue: str, count: int) -> None:
        log.info("%d jobs of queue %s wait without a ticket, taking them", count, queue)
        for _ in range(count):
            if self.stopping or not self._taking.acquire(blocking=False):
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
