"""One thread that keeps this process's jobs its own, and hears when they are canceled or lost."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from shared.errors import Unavailable
from shared.jobs.leases import Leases
from shared.jobs.workers import Worker, WorkerRegistry
from shared.periodic_service import PeriodicService
from worker.attempts.held_job import HeldJob
from worker.engines.contract.engine import StopReason

log = logging.getLogger(__name__)

#: seconds between two renewals at most: how long a cancel goes unheard while Redis is away; and at least
_LONGEST, _SHORTEST = 0.5, 0.2
#: seconds between two signs of life of the worker itself, at most
_HEARTBEAT = 2.0


class LeaseRenewer(PeriodicService):
    """Renews the leases of all held jobs in one statement, several times within a lease."""

    def __init__(
        self,
        leases: Leases,
        registry: WorkerRegistry,
        lease_seconds: float,
        describe: Callable[[], Worker],
    ) -> None:
        every = max(_SHORTEST, min(_LONGEST, lease_seconds / 3))
        super().__init__("lease renewal", every, delay_first=True)
        self._leases = leases
        self._registry = registry
        self._describe = describe
        self._heartbeat = max(_SHORTEST, min(_HEARTBEAT, lease_seconds / 3))
        #: by job and attempt: a job that was lost may be claimed here again before its old attempt stops
        self._held: dict[tuple[str, int], HeldJob] = {}
        self._beat = 0.0
        self._told: tuple[object, ...] = ()

    def start(self) -> None:
        """Say that the worker lives, and go on saying so."""
        try:
            self._say_alive()
        except Unavailable as error:
            log.warning("not listed as alive yet: %s", error)
        super().start()

    def hold(self, held: HeldJob) -> None:
        """Renew this job's lease from now on."""
        self._held[held.job.id, held.job.attempt] = held

    def release(self, held: HeldJob) -> None:
        """The job has ended, or is another's."""
        self._held.pop((held.job.id, held.job.attempt), None)

    def look(self, job_id: str) -> None:
        """Something was asked of this job: if it is held here, see at once what. Any thread."""
        if any(held.job.id == job_id for held in self.held()):
            self.wake()

    def held(self) -> list[HeldJob]:
        """The jobs that this process holds."""
        return list(self._held.values())

    def say(self) -> None:
        """Say now how the worker is. Any thread. Raises Unavailable."""
        self._say_alive()

    def stop(self) -> None:
        """Renew no more, and take the worker out of the list of those alive."""
        super().stop()
        try:
            self._registry.remove(self._describe().id)
        except Unavailable as error:
            log.warning("this worker stays listed until it is found silent: %s", error)

    def run_once(self) -> bool:
        """Renew the leases, and tell how the worker is when that has changed or is due.

        Raises Unavailable: the jobs go on; should a lease run out meanwhile, the fence in the database
        decides."""
        self._renew()
        if time.monotonic() - self._beat >= self._heartbeat or self._news() != self._told:
            self._say_alive()
        return False

    def _renew(self) -> None:
        held: dict[str, HeldJob] = {}
        for one in sorted(self.held(), key=lambda one: one.job.attempt):
            if (older := held.get(one.job.id)) is not None:
                older.stop(StopReason.LOST)
            held[one.job.id] = one
        if not held:
            return
        attempts = {job_id: one.job.attempt for job_id, one in held.items()}
        news = {job_id: one.latest for job_id, one in held.items() if one.latest is not None}
        renewal = self._leases.renew(self._describe().id, attempts, news)
        for job_id in renewal.lost:
            held[job_id].stop(StopReason.LOST)
        for job_id in renewal.canceled:
            held[job_id].stop(StopReason.CANCELED)
        for job_id, told in news.items():
            if held[job_id].latest is told:
                held[job_id].latest = None  # written; nothing new to write until it changes

    def _say_alive(self) -> None:
        told = self._news()
        self._registry.heartbeat(self._describe())
        self._beat, self._told = time.monotonic(), told

    def _news(self) -> tuple[object, ...]:
        """What clients who wait for a job want to hear of at once."""
        worker = self._describe()
        return worker.queues, worker.loading, worker.models, worker.trouble
