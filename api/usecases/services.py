"""What the handlers work with: one of each for a process, made together and closed together."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from api.auth.limits import Limits
from api.http.bodies import Bodies
from api.http.concurrency import ActiveRequests
from api.server.fair_slots import FairSlots
from api.usecases.job_watcher import JobWatcher
from shared.accounts.keys import KeyStore
from shared.accounts.tenants import Tenants
from shared.catalog.catalog import Catalog
from shared.catalog.entries.model import owned
from shared.db.engine import Database
from shared.db.group_commit import GroupCommit
from shared.errors import QanvasError, Unavailable
from shared.files.store import FileStore
from shared.jobs.attempts import Attempts
from shared.jobs.completion import CompletionHandler, publish_status
from shared.jobs.dead_letters import DeadLetters
from shared.jobs.entities import Job, NewJob, Submitted
from shared.jobs.scheduling.depths import QueueDepth
from shared.jobs.store import JobStore
from shared.jobs.workers import Worker, WorkerRegistry
from shared.messaging.events import Events
from shared.messaging.tickets import Tickets
from shared.settings import Settings
from shared.states import Status
from shared.storage.factory import open_storage
from shared.ttl_cache import TtlCache
from shared.webhooks.outbox import Outbox

#: positions are counted up to here where many are asked for, or where counting would hold up a submission
FAR = 1000
#: and up to here for one job
FAR_ALONE = 10_000


@dataclass(frozen=True, slots=True)
class Accepted:
    """A submission as it was committed; ``replayed``: the job was there already under the same key."""

    job: Job
    replayed: bool
    #: jobs before it when it was committed; None where it does not wait for others, or for more than ``FAR``
    position: int | None


class Services:
    """Everything that outlives a request. Opening it starts no thread but the publisher of tickets."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(settings.database_url)
        #: connections of their own for questions that must not wait behind requests
        self.asking = Database(settings.database_url)
        self.jobs = JobStore(self.database)
        self.attempts = Attempts(self.database)
        self.letters = DeadLetters(self.database)
        self.files = FileStore(self.database)
        self.keys = KeyStore(self.database)
        self.tenants = Tenants(self.database, settings)
        self.limits = Limits(self.tenants, settings.redis_url)
        self.outbox = Outbox(self.database)
        self.registry = WorkerRegistry(self.database)
        self.catalog = Catalog(settings, self.database)
        self.storage = open_storage(settings)
        self.tickets = Tickets(settings)
        self.events = Events(settings.redis_url)
        self.completion = CompletionHandler(
            self.database, self.events, self.tickets, self.tenants.running_limit
        )
        self.follower = JobWatcher(settings.redis_url, self.jobs.ended)
        #: group commit of submissions
        self.writer: GroupCommit[NewJob, Accepted] = GroupCommit(self._submit)
        self.workers: TtlCache[list[Worker]] = TtlCache(
            lambda: self.registry.alive(within=settings.lease_seconds)
        )
        self.depths: TtlCache[Sequence[QueueDepth]] = TtlCache(self.jobs.depths)
        self.is_keyed = TtlCache(self.keys.is_keyed)
        #: set when the process is told to stop: whoever waits shall answer now
        self.closing = threading.Event()
        #: requests that are worked on at once; those that only wait do not count
        self.active = ActiveRequests(settings.api_threads)
        self.bodies = Bodies(settings.max_body_bytes, self.active)
        #: places of event streams and of requests that wait, each on a thread that nobody else needs
        self.waiting = FairSlots(settings.api_streams)

    def waiting_limits(self, tenants: Iterable[str]) -> dict[str, int]:
        """The most jobs that each may have waiting; 0 for any number."""
        return {tenant: self.tenants.limits(tenant).queued for tenant in set(tenants)}

    def _submit(self, batch: Sequence[NewJob]) -> Sequence[Accepted | QanvasError]:
        """Commit together; how many jobs are before these is counted once for all of a queue and priority."""
        limits = self.waiting_limits(job.tenant for job in batch)
        answers = self.jobs.submit(batch, limits=limits)
        fresh = [one.job for one in answers if isinstance(one, Submitted) and not one.replayed]
        self.announce(fresh)
        ahead: Mapping[str, int | None] = {}
        with suppress(Unavailable):  # they are committed: a failure now would submit them again
            ahead = self.positions(fresh)
        return [
            Accepted(one.job, one.replayed, ahead.get(one.job.id)) if isinstance(one, Submitted) else one
            for one in answers
        ]

    def announce(self, jobs: Sequence[Job]) -> None:
        """Tickets for what was committed; they leave from another thread."""
        for job in jobs:
            if job.is_terminal:  # what it depends on had failed already
                publish_status(self.events, job)
        queues = Counter(job.queue for job in jobs if job.status is Status.QUEUED)
        for queue, count in queues.items():
            self.tickets.send(queue, count)

    def positions(self, jobs: Sequence[Job], *, most: int = FAR) -> dict[str, int | None]:
        """By id, how many jobs start before each that waits for others; those that do not are left out."""
        behind = [
            job
            for job in jobs
            if job.status is Status.QUEUED and not job.parked and self.is_served(job.queue)
        ]
        counted = self.jobs.positions(behind, most=most) if behind else []
        return {job.id: position for job, position in zip(behind, counted, strict=True)}

    def is_served(self, queue: str) -> bool:
        """Whether a live worker takes jobs from this queue."""
        return any(queue in worker.queues for worker in self.workers())

    def is_loading(self, job: Job) -> bool:
        """Whether a queued job waits for its model: a worker of its queue loads it now, and none has it."""
        serving = [worker for worker in self.workers() if job.queue in worker.queues]
        names = {job.model, owned(job.tenant, job.model)}  # a model of all, or the tenant's own
        return any(worker.loading in names for worker in serving) and names.isdisjoint(
            model for worker in serving for model in worker.models
        )

    def stop_waiting(self) -> None:
        """Let everybody who waits answer now."""
        self.closing.set()
        self.follower.close()

    def close(self) -> None:
        """Send what is pending and let go of every connection."""
        self.stop_waiting()
        self.tickets.close()
        self.events.close()
        self.asking.dispose()
        self.database.dispose()
