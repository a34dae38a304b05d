"""What heals: expired leases, lost tickets, due jobs, leftovers. Every worker has it, one at a time works."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterable, Mapping

from shared.aftermath import Aftermath
from shared.errors import NotFound, Unavailable
from shared.events import Events
from shared.jobs.leases import Leases
from shared.jobs.records import Job
from shared.jobs.states import Status
from shared.jobs.store import JobStore
from shared.queue import Tickets
from worker.announce import announce
from worker.checkpoints import Checkpoints
from worker.results import Results

log = logging.getLogger(__name__)

_LOCK = "upkeep"
#: tickets that a queue needs at most: more than all workers together take between two rounds
_TICKETS = 10_000
#: leases without a sign of life after which a worker is forgotten
_SILENT_LEASES = 10
#: seconds between two looks for checkpoints of jobs that have ended without a worker
_SWEEP_EVERY = 600.0


class Upkeep:
    """A round every few seconds, on the one worker that holds the lock in the database."""

    def __init__(
        self,
        *,
        worker_id: str,
        every: float,
        lease_seconds: float,
        leases: Leases,
        jobs: JobStore,
        tickets: Tickets,
        events: Events,
        aftermath: Aftermath,
        results: Results,
        checkpoints: Checkpoints,
    ) -> None:
        self._worker_id = worker_id
        self._every = every
        self._silent = _SILENT_LEASES * lease_seconds
        self._leases = leases
        self._jobs = jobs
        self._tickets = tickets
        self._events = events
        self._aftermath = aftermath
        self._results = results
        self._checkpoints = checkpoints
        #: by queue, what the last round found missing and did not send again
        self._missing: dict[str, int] = {}
        self._swept = time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep_up, name="upkeep", daemon=True)

    def start(self) -> None:
        """Begin with a round at once: a restart may have left much to do."""
        self._thread.start()

    def close(self) -> None:
        """Stop after the round that runs."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def round(self) -> None:
        """Do all of it once, unless another worker does. Raises Unavailable."""
        if not self._leases.try_lock(_LOCK, self._worker_id, 3 * self._every):
            return
        self._mourn(self._leases.reap())
        for job in self._leases.wake_due():
            self._announce(job)
        for job in self._leases.expire():
            self._announce(job)
        self._aftermath.settle(self._every)
        self._aftermath.let_in()
        self._leases.forget_silent(self._silent)
        if time.monotonic() - self._swept >= _SWEEP_EVERY:
            self._swept = time.monotonic()
            self._sweep()
        self._top_up()

    def bury(self, dead: Mapping[str, Collection[str]]) -> None:
        """Take back the jobs of workers that are known to be dead, whose leases may have long to run.

        ``dead`` maps each to the jobs it was computing; those that only waited there keep their attempts."""
        try:
            for worker_id, begun in dead.items():
                self._mourn(self._leases.bury(worker_id, begun))
                self._leases.forget(worker_id)
        except Unavailable as error:
            log.warning("jobs of dead workers wait for their leases to run out: %s", error)

    def _mourn(self, lost: Iterable[Job]) -> None:
        for job in lost:
            log.warning("%s was lost with its worker in attempt %d: %s", job.id, job.attempt, job.status)
            self._announce(job)
            self._results.take_back(job.id, job.attempt)

    def _keep_up(self) -> None:
        while True:
            try:
                self.round()
            except Unavailable as error:
                log.warning("upkeep waits: %s", error)
            except Exception:
                log.exception("a round of upkeep failed")
            if self._closed.wait(self._every):
                return

    def _announce(self, job: Job) -> None:
        announce(self._events, job)
        if job.status is Status.QUEUED:
            self._tickets.send(job.queue)
        if job.is_terminal:
            self._checkpoints.forget(job.id)

    def _top_up(self) -> None:
        """Tickets are anonymous: a queue needs as many as it has jobs, whichever were lost, or as workers can
        take until the next round. Those that are just on their way are not lost: only what was missing in the
        last round too is sent again."""
        before, self._missing = self._missing, {}
        # what is set aside gets its ticket when it is let in
        for queue, ready in self._jobs.ready(_TICKETS).items():
            missing = ready - self._tickets.waiting(queue)
            if missing <= 0:
                continue
            again = min(missing, before.get(queue, 0))
            if again:
                log.debug("%d tickets missing for queue %s, sent again", again, queue)
                self._tickets.send(queue, again)
            self._missing[queue] = missing - again

    def _sweep(self) -> None:
        """Remove the checkpoints of jobs that were canceled, or deleted, while no worker had them."""
        for job_id in self._checkpoints.job_ids():
            try:
                over = self._jobs.get(job_id).is_terminal
            except NotFound:
                over = True
            if over:
                self._checkpoints.forget(job_id)
