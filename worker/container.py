"""A worker's parts, made together and closed together."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence

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
from shared.messaging.subscriber import Subscriber
from shared.messaging.tickets import Tickets
from shared.outward import Outward
from shared.periodic_service import PeriodicService
from shared.settings import Settings
from shared.storage import Storage
from shared.storage.factory import open_storage
from shared.webhooks.outbox import Outbox
from worker.attempts.checkpoints import Checkpoints
from worker.attempts.completer import Completer
from worker.attempts.context import WorkerContext
from worker.attempts.lease_renewal import LeaseRenewer
from worker.attempts.leftovers import Leftovers
from worker.attempts.preparer import Preparer
from worker.attempts.results import Results
from worker.attempts.runner import Runner
from worker.attempts.scratch import Scratch
from worker.attempts.slot_time import Pace
from worker.attempts.write_probe import WriteProbe
from worker.health.failure_streak import FailureStreak
from worker.health.watched_io import WatchedDatabase, watched
from worker.kiln.cost_profile import CostProfiles
from worker.kiln.devices import describe, find_device, memory_budget
from worker.kiln.kiln import Kiln
from worker.media.limits import PICTURE
from worker.media.sandbox import Sandbox
from worker.services.forced_exit import ForcedExit
from worker.services.maintenance import Maintenance
from worker.services.queue_poll import QueuePoll
from worker.services.retention import Retention
from worker.services.self_check import SelfCheck
from worker.services.webhook_delivery import WebhookDelivery

log = logging.getLogger(__name__)


class WorkerContainer:
    """One of each part; what runs jobs is ``runner``."""

    def __init__(self, settings: Settings, name: str | None = None) -> None:
        """Raises ConfigurationError: a device that is not there, a database that is not migrated."""
        self.settings = settings
        self.id = name or new_id("wrk")
        self.watch = SelfCheck(settings.stall_seconds)
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
        backoff = Backoff(settings.retry_base_seconds, settings.retry_cap_seconds)
        most = Tenants(self.database, settings).running_limit
        leases = Leases(self.database, settings.lease_seconds, backoff, most)
        self.context = self._make_context(settings, storage, leases, most)
        context = self.context
        self.keeper, self.fitness, self.scratch = context.keeper, context.fitness, context.scratch
        self.device = device.name
        self.kiln = Kiln(
            device,
            memory_budget(device, settings.memory_bytes),
            slots=settings.slots,
            profiles=CostProfiles(settings.data / "profiles", describe(device)),
            failed=self.watch.device_failed,
        )
        self.sandbox = Sandbox()
        self.pace = Pace()
        self._failures = FailureStreak(settings.unfit_after)
        self.completer = Completer(context, noted=self._note_ending)
        self.runner = Runner(
            context,
            preparer=Preparer(
                settings, catalog, storage, FileStore(self.database), context.jobs, self.sandbox, busy
            ),
            kiln=self.kiln,
            pace=self.pace,
            completer=self.completer,
            busy=busy,
            device_failed=self.watch.device_failed,
        )
        self.maintenance = Maintenance(context)
        outbox = Outbox(self.database)
        self.queue_poll = QueuePoll(context, self.runner.ticket)
        #: started when the worker is ready, in this order, and stopped when its jobs have ended
        self.services: Sequence[PeriodicService] = (
            self.maintenance,
            self.queue_poll,
            WebhookDelivery(outbox, Outward(allow_private=settings.webhook_allow_private)),
            Retention(
                settings,
                self.id,
                locks=context.locks,
                files=RetentionStore(self.database),
                outbox=outbox,
                storage=storage,
            ),
        )
        # Redis says when to look, the rows say what to stop; what it misses, the next renewal finds
        self.requests = Subscriber(
            settings.redis_url, STOP, heard=lambda job_id: self.keeper.look(job_id.decode())
        )
        forced_exit = ForcedExit(
            context, retire=self.runner.retire, storing=lambda: bool(self.completer.ending)
        )
        self.watch.keep(self.kiln, self.keeper, forced_exit)

    def _make_context(
        self, settings: Settings, storage: Storage, leases: Leases, most: Callable[[str], int]
    ) -> WorkerContext:
        tickets, events = Tickets(settings), Events(settings.redis_url)
        registry = WorkerRegistry(self.database)
        results, checkpoints = Results(storage, self.watch.busy), Checkpoints(storage)
        scratch = Scratch(settings.data / "scratch", self.id)
        return WorkerContext(
            worker_id=self.id,
            settings=settings,
            leases=leases,
            reaper=Reaper(self.database),
            registry=registry,
            locks=NamedLocks(self.database),
            jobs=JobStore(self.database),
            tickets=tickets,
            events=events,
            completion=CompletionHandler(self.database, events, tickets, most),
            results=results,
            checkpoints=checkpoints,
            leftovers=Leftovers(results, checkpoints),
            scratch=scratch,
            fitness=WriteProbe(storage, scratch),
            keeper=LeaseRenewer(leases, registry, settings.lease_seconds, self.describe),
            write_turns=threading.Lock(),
        )

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
        """Start the services: the worker is listed as alive, and repairs."""
        self.sandbox.open(PICTURE)
        self.keeper.start()  # first: a ticket may have claimed a job already
        self.requests.start()
        self.maintenance.reap_workers(self.scratch.dead, self.scratch.left)
        for service in self.services:
            service.start()

    def close(self) -> None:
        """Call when no ticket runs any more."""
        with self.watch.busy.at("stopping"):
            self._close()
        self.watch.close()

    def _close(self) -> None:
        self.queue_poll.stop()
        self.completer.close()
        self.fitness.close()
        for service in self.services:
            service.stop()
        self.requests.close()
        self.keeper.stop()
        self.kiln.close(timeout=5)
        self.sandbox.close()
        self.context.tickets.close()
        self.context.events.close()
        self.scratch.close()
        self.database.dispose()
