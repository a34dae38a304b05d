"""Repairs: expired leases, lost tickets, due jobs, leftovers. Every worker has it, one at a time works."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Iterable, Mapping

from shared.errors import NotFound, Unavailable
from shared.jobs.entities import Job
from shared.messaging.tickets import MAX_TICKETS
from shared.periodic_service import PeriodicService
from shared.states import Status
from worker.attempts.announcement import announce
from worker.attempts.context import WorkerContext
from worker.attempts.scratch import Attempt
from worker.health.awake_clock import awake_seconds

log = logging.getLogger(__name__)

_LOCK = "upkeep"
#: leases without a sign of life after which a worker is forgotten
_SILENT_LEASES = 10
#: seconds between two looks for checkpoints that nobody needs
_SWEEP_EVERY = 600.0
#: seconds that workers, which renew twice a second, have to do so once the database answers again; or a
#: lease, where that is shorter
_GRACE = 5.0


class Maintenance(PeriodicService):
    """Runs every few seconds, on the one worker that holds the lock in the database."""

    def __init__(self, context: WorkerContext) -> None:
        interval, lease = context.settings.upkeep_seconds, context.settings.lease_seconds
        super().__init__("maintenance", interval)
        self._worker_id = context.worker_id
        self._silent = _SILENT_LEASES * lease
        self._reaper = context.reaper
        self._registry = context.registry
        self._locks = context.locks
        self._jobs = context.jobs
        self._tickets = context.tickets
        self._events = context.events
        self._completion = context.completion
        self._leftovers = context.leftovers
        self._checkpoints = context.checkpoints
        self._lease = lease
        #: by ``awake_seconds``: when the database answered last, and from when on leases are looked at
        self._answered = -math.inf
        self._reap_from = 0.0
        #: by queue, what the last run found missing and did not send again
        self._missing: dict[str, int] = {}
        self._swept = time.monotonic()

    def run_once(self) -> bool:
        """Do all of it, unless another worker does. Raises Unavailable."""
        self._leftovers.again()
        mine = self._locks.try_lock(_LOCK, self._worker_id, 3 * self._interval)
        now = self._note_answer()
        if not mine:
            return False
        if now >= self._reap_from:
            self._report_lost(self._reaper.reap())
        for job in self._reaper.wake_due():
            self._announce(job)
        for job in self._reaper.expire():
            self._announce(job)
        self._completion.settle(self._interval)
        self._completion.unpark()
        self._registry.remove_silent(self._silent)
        if time.monotonic() - self._swept >= _SWEEP_EVERY:
            self._swept = time.monotonic()
            self._sweep()
        self._send_missing_tickets()
        return False

    def reap_workers(self, dead: Mapping[str, Collection[str]], left: Collection[Attempt] = ()) -> None:
        """Take back the jobs of workers that are known to be dead, whose leases may have long to run.

        ``dead`` maps each to the jobs it was computing; those that only waited there keep their attempts.
        ``left`` are attempts that they had begun: what was stored of one that another worker had taken over
        already is removed."""
        try:
            for worker_id, computing in dead.items():
                self._report_lost(self._reaper.reap_worker(worker_id, computing))
                self._registry.remove(worker_id)
            for job_id, attempt in left:
                self._remove_left(job_id, attempt)
        except Unavailable as error:
            log.warning("jobs of dead workers wait for their leases to run out: %s", error)

    def _remove_left(self, job_id: str, attempt: int) -> None:
        """Remove what an attempt stored that no row names, nor may any more."""
        try:
            job = self._jobs.get(job_id)
        except NotFound:
            job = None
        named = (Status.RUNNING, Status.SUCCEEDED)
        if job is None or job.attempt != attempt or job.status not in named:
            self._leftovers.of_attempt(job_id, attempt)
        if job is None or job.is_terminal:
            self._leftovers.of_checkpoints(job_id)

    def _note_answer(self) -> float:
        """The database has answered; the time by ``awake_seconds``.

        Where it had not for long, or this process was stopped, or has just begun, nobody may have been able
        to renew leases. Workers that live get time to do so before theirs are looked at."""
        now = awake_seconds()
        if now - self._answered > max(self._lease / 2, 3 * self._interval):
            self._reap_from = now + min(self._lease, _GRACE)
        self._answered = now
        return now

    def _report_lost(self, lost: Iterable[Job]) -> None:
        for job in lost:
            log.warning("%s was lost with its worker in attempt %d: %s", job.id, job.attempt, job.status)
            self._announce(job)
            self._leftovers.of_attempt(job.id, job.attempt)

    def _announce(self, job: Job) -> None:
        announce(self._events, job)
        if job.status is Status.QUEUED:
            self._tickets.send(job.queue)
        if job.is_terminal:
            self._leftovers.of_checkpoints(job.id)

    def _send_missing_tickets(self) -> None:
        """Send each queue as many tickets as it has fewer than jobs, up to ``MAX_TICKETS``.

        A ticket that was just sent is not lost: only what was missing in the last run too is sent again."""
        before, self._missing = self._missing, {}
        # a parked job gets its ticket when it is unparked
        for queue, ready in self._jobs.ready(MAX_TICKETS).items():
            missing = ready - self._tickets.waiting(queue)
            if missing <= 0:
                continue
            again = min(missing, before.get(queue, 0))
            if again:
                log.debug("%d tickets missing for queue %s, sent again", again, queue)
                self._tickets.send(queue, again)
            self._missing[queue] = missing - again

    def _sweep(self) -> None:
        """Remove the checkpoints of jobs that were canceled, or deleted, while no worker had them, and those
        that workers stored after they had lost the job."""
        for job_id in self._checkpoints.job_ids():
            try:
                job = self._jobs.get(job_id)
            except NotFound:
                job = None
            if job is None or job.is_terminal:
                self._leftovers.of_checkpoints(job_id)
            else:
                self._checkpoints.remove_leftovers(job)
