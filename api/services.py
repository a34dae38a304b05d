"""What the handlers work with: one of each for a process, made together and closed together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from shared.catalog.catalog import Catalog
from shared.database import Database
from shared.errors import IdempotencyMismatch
from shared.events import Events
from shared.following import Follower
from shared.jobs.batching import Combiner
from shared.jobs.files import FileStore
from shared.jobs.keys import KeyStore
from shared.jobs.leases import Leases
from shared.jobs.records import Job, NewJob, Worker
from shared.jobs.states import Status
from shared.jobs.store import JobStore
from shared.queue import Tickets
from shared.settings import Settings
from shared.storage.factory import open_storage

#: seconds for which a list of live workers, or whether there are keys, is believed
_FRESH = 1.0

#: positions are counted up to here where many are asked for, or where counting would hold up a submission
FAR = 1000

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Accepted:
    """A submission as it was committed; ``replayed``: the job was there already under the same key."""

    job: Job
    replayed: bool
    #: jobs before it when it was committed; None where it does not wait for others, or for more than ``FAR``
    position: int | None


class Remembered(Generic[Value]):
    """A value that is looked up at most once in ``seconds``, however many ask."""

    def __init__(self, look_up: Callable[[], Value], seconds: float = _FRESH) -> None:
        self._look_up, self._seconds = look_up, seconds
        self._lock = threading.Lock()
        self._known: tuple[float, Value] | None = None

    def __call__(self) -> Value:
        known = self._known
        if known is None or known[0] < time.monotonic():
            with self._lock:
                known = self._known
                if known is None or known[0] < time.monotonic():
                    known = self._known = (time.monotonic() + self._seconds, self._look_up())
        return known[1]


class Services:
    """Everything that outlives a request. Opening it starts no thread but the publisher of tickets."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(settings.database_url)
        self.jobs = JobStore(self.database)
        self.files = FileStore(self.database)
        self.keys = KeyStore(self.database)
        self.leases = Leases(self.database, settings.lease_seconds)
        self.catalog = Catalog(settings, self.database)
        self.storage = open_storage(settings)
        self.tickets = Tickets(settings)
        self.events = Events(settings.redis_url)
        self.follower = Follower(settings.redis_url)
        #: group commit of submissions
        self.writer: Combiner[NewJob, Accepted] = Combiner(self._submit)
        self.workers: Remembered[list[Worker]] = Remembered(
            lambda: self.leases.workers(alive_within=settings.lease_seconds)
        )
        self.has_keys = Remembered(self.keys.any)
        #: set when the process is told to stop: whoever waits shall answer now
        self.closing = threading.Event()
        # waiting requests sit on threads; some must stay free for those that do not wait
        self._seats = threading.BoundedSemaphore(max(1, settings.api_threads * 3 // 4))

    def _submit(self, batch: Sequence[NewJob]) -> Sequence[Accepted | IdempotencyMismatch]:
        """Commit together; how many jobs are before these is counted once for all of a queue and priority."""
        ahead: dict[tuple[str, int], int | None] = {}
        answers: list[Accepted | IdempotencyMismatch] = []
        for submitted in self.jobs.submit(batch):
            if isinstance(submitted, IdempotencyMismatch):
                answers.append(submitted)
                continue
            job, position = submitted.job, None
            if job.status is Status.QUEUED and not submitted.replayed and self.is_served(job.queue):
                rank = (job.queue, job.priority)
                position = ahead[rank] if rank in ahead else self.jobs.position(job, most=FAR)
                ahead[rank] = None if position is None else position + 1
            answers.append(Accepted(job, submitted.replayed, position))
        return answers

    def is_served(self, queue: str) -> bool:
        """Whether a live worker takes jobs from this queue."""
        return any(queue in worker.queues for worker in self.workers())

    @contextmanager
    def seat(self) -> Iterator[bool]:
        """Whether this request may wait: most threads may be taken by waiting requests, never all."""
        taken = self._seats.acquire(blocking=False)
        try:
            yield taken
        finally:
            if taken:
                self._seats.release()

    def stop_waiting(self) -> None:
        """Let everybody who waits answer now."""
        self.closing.set()
        self.follower.close()

    def close(self) -> None:
        """Send what is pending and let go of every connection."""
        self.stop_waiting()
        self.tickets.close()
        self.events.close()
        self.database.dispose()
