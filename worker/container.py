"""A worker's parts, made together and closed together."""

from __future__ import annotations

import logging
import os
import socket
import threading

from shared.accounts.tenants import Tenants
from shared.catalog.catalog import Catalog
from shared.db.named_locks import NamedLocks
from shared.files.retention import RetentionStore
from shared.files.store import FileStore
from shared.ids import new_id
from shared.jobs.backoff import Backoff
from shared.jobs.completion import CompletionHandler
from shared.jobs.entities import Ending, Job
from shared.jobs.leases import Leases
from shared.jobs.reaper import Reaper
from shared.jobs.store import JobStore
from shared.jobs.workers import Worker, WorkerRegistry
from shared.messaging.events import STOP, Events
from shared.messaging.subscriber import Listener
from shared.messaging.tickets import Tickets
from shared.outward import Outward
from shared.settings import Settings
from shared.storage.factory import open_storage
from shared.webhooks.outbox import Outbox
from worker.attempts.checkpoints import Checkpoints
from worker.attempts.completer import Endings
from worker.attempts.lease_renewal import LeaseKeeper
from worker.attempts.leftovers import Leftovers
from worker.attempts.preparer import Preparer
from worker.attempts.results import Results
from worker.attempts.runner import Runner
from worker.attempts.scratch import Scratch
from worker.attempts.slot_time import Pace
from worker.attempts.write_probe import Fitness
from worker.health.failure_streak import FailuresInARow
from worker.health.watched_io import WatchedDatabase, watched
from worker.kiln.cost_profile import Profiles
from worker.kiln.devices import describe, find_device, memory_budget
from worker.kiln.kiln import Kiln
from worker.media.limits import PICTURE
from worker.media.sandbox import Sandbox
from worker.services.forced_exit import Departure
from worker.services.maintenance import Upkeep
from worker.services.queue_poll import Ticketless
from worker.services.retention import Retention
from worker.services.self_check import Watch
from worker.services.webhook_delivery import Deliverer

log = logging.getLogger(__name__)


class House:
    """One of each part; what runs jobs is ``runner``."""

    def __init__(self, settings: Settings, name: str | None = None) -> None:
        """Raises ConfigurationError: a device that is not there, a database that is not migrated."""
        self.settings = settings
        self.id = name or new_id("wrk")
        self.watch = Watch(settings.stall_seconds)
        self.watch.start()
        try:
            with self.watch.busy.at("starting"):
                self._make(settings)
        except BaseException:
            self.watch.close()
            raise

    def _make(self, settings: Settings) -> None:
        busy = self.watch.busy
        self.database = WatchedDatabase(settings.database_url, busy)
        self.database.check_migrated()
        storage = watched(open_storage(settings), busy)
        catalog = Catalog(settings, self.database)
        device = find_device(settings.device)
        jobs = JobStore(self.database)
        backoff = Backoff(settings.retry_base_seconds, settings.retry_cap_seconds)
        most = Tenants(self.database, settings).running_limit
        leases = Leases(self.database, settings.lease_seconds, backoff, most)
        reaper, registry = Reaper(self.database), WorkerRegistry(self.database)
        locks = NamedLocks(self.database)
        results, checkpoints = Results(storage, busy), Checkpoints(storage)
        leftovers = Leftovers(results, checkpoints)
        self.device = device.name
        self.kiln = Kiln(
            device,
            memory_budget(device, settings.memory_bytes),
            slots=settings.slots,
            profiles=Profiles(settings.data / "profiles", describe(device)),
            failed=self.watch.device_failed,
        )
        self.sandbox = Sandbox()
        self.events = Events(settings.redis_url)
        self.pace = Pace()
        self.tickets = Tickets(settings)
        completion = CompletionHandler(self.database, self.events, self.tickets, most)
        self.scratch = Scratch(settings.data / "scratch", self.id)
        self.fitness = Fitness(storage, self.scratch)
        self.keeper = LeaseKeeper(leases, registry, settings.lease_seconds, self.describe)
        # Redis says when to look, the rows say what to stop; what it misses, the next renewal finds
        self.requests = Listener(
            settings.redis_url, STOP, heard=lambda job_id: self.keeper.look(job_id.decode())
        )
        self.upkeep = Upkeep(
            worker_id=self.id,
            every=settings.upkeep_seconds,
            lease_seconds=settings.lease_seconds,
            reaper=reaper,
            registry=registry,
            locks=locks,
            jobs=jobs,
            tickets=self.tickets,
            events=self.events,
            completion=completion,
            leftovers=leftovers,
            checkpoints=checkpoints,
        )
        outbox = Outbox(self.database)
        self.deliverer = Deliverer(outbox, Outward(allow_private=settings.webhook_allow_private))
        self.retention = Retention(
            settings,
            self.id,
            locks=locks,
            files=RetentionStore(self.database),
            outbox=outbox,
            storage=storage,
        )
        # at once they would take longer, each with fewer jobs: they compete for one interpreter
        turns = threading.Lock()
        self._failures = FailuresInARow(settings.unfit_after)
        self.endings = Endings(
            worker_id=self.id,
            most=settings.slots,
            leases=leases,
            jobs=jobs,
            keeper=self.keeper,
            results=results,
            leftovers=leftovers,
            scratch=self.scratch,
            fitness=self.fitness,
            events=self.events,
            tickets=self.tickets,
            completion=completion,
            turns=turns,
            noted=self._note_ending,
        )
        self.runner = Runner(
            worker_id=self.id,
            slots=settings.slots,
            leases=leases,
            keeper=self.keeper,
            preparer=Preparer(settings, catalog, storage, FileStore(self.database), jobs, self.sandbox, busy),
            kiln=self.kiln,
            checkpoints=checkpoints,
            scratch=self.scratch,
            fitness=self.fitness,
            events=self.events,
            tickets=self.tickets,
            pace=self.pace,
            endings=self.endings,
            turns=turns,
            busy=busy,
            device_failed=self.watch.device_failed,
        )
        self.ticketless = Ticketless(
            queues=settings.queues,
            slots=settings.slots,
            every=settings.upkeep_seconds,
            jobs=jobs,
            tickets=self.tickets,
            held=lambda: len(self.keeper.held()),
            take=self.runner.ticket,
        )
        departure = Departure(
            worker_id=self.id,
            leases=leases,
            reaper=reaper,
            keeper=self.keeper,
            scratch=self.scratch,
            leftovers=leftovers,
            events=self.events,
            tickets=self.tickets,
            retire=self.runner.retire,
            storing=lambda: bool(self.endings.ending),
        )
        self.watch.keep(self.kiln, self.keeper, departure)

    def _note_ending(self, job: Job, ending: Ending) -> None:
        why = self._failures.note(f"{job.model}, {job.task}", ending)
        if why is not None and self.runner.trouble is None:
            log.error("worker %s %s", self.id, why)
            self.runner.retire(why)

    def describe(self) -> Worker:
        """This worker as others see it."""
        return Worker(
            id=self.id,
            host=socket.gethostname(),
            pid=os.getpid(),
            device=self.device,
            slots=self.settings.slots,
            queues=() if self.runner.leaving or self.fitness.trouble else self.settings.queues,
            models=self.kiln.models,
            loading=self.kiln.loading,
            memory=self.kiln.memory,
            pace=self.pace.means,
            forwards=self.kiln.forwards,
            trouble=self.runner.trouble or self.fitness.trouble,
        )

    def open(self) -> None:
        """Begin to heal, and to be seen."""
        self.sandbox.open(PICTURE)
        self.keeper.start()
        self.requests.start()
        self.upkeep.reap_workers(self.scratch.dead, self.scratch.left)
        self.upkeep.start()
        self.ticketless.start()
        self.deliverer.start()
        self.retention.start()

    def close(self) -> None:
        """Call when no ticket runs any more."""
        with self.watch.busy.at("stopping"):
            self._close()
        self.watch.close()

    def _close(self) -> None:
        self.ticketless.close()
        self.endings.close()
        self.fitness.close()
        self.upkeep.close()
        self.deliverer.close()
        self.retention.close()
        self.requests.close()
        self.keeper.close()
        self.kiln.close(timeout=5)
        self.sandbox.close()
        self.tickets.close()
        self.events.close()
        self.scratch.close()
        self.database.dispose()
