"""What follows from a job's end: clients are told, and the jobs that waited for it go on."""

from __future__ import annotations

from collections.abc import Mapping

from shared.db.engine import Database
from shared.jobs.dependencies import Dependencies
from shared.jobs.entities import Job
from shared.jobs.scheduling.concurrency_limits import ConcurrencyLimits, RunningLimit, unlimited
from shared.messaging.events import Events, Speaker
from shared.messaging.tickets import Tickets
from shared.states import Status


def publish_status(events: Events, job: Job) -> None:
    """Publish the status of a job, and that it is done if it is."""
    status = {"status": job.shown_status.value}
    events.publish(job.id, "status", status, speaker=speaker_of(job))
    if job.is_terminal:
        events.publish(job.id, "done", status, speaker=speaker_of(job))


def speaker_of(job: Job) -> Speaker:
    """The attempt that speaks in events about this row."""
    return Speaker(job.attempt, over=job.status is not Status.RUNNING)


class CompletionHandler:
    """Moves the jobs that waited for another job's end, and sends their tickets and events."""

    def __init__(
        self,
        database: Database,
        events: Events,
        tickets: Tickets,
        running_limit: RunningLimit = unlimited,
    ) -> None:
        """``running_limit``: how many jobs a tenant may have running, see ``concurrency_limits``."""
        self._dependencies = Dependencies(database)
        self._limits = ConcurrencyLimits(database, running_limit)
        self._events = events
        self._tickets = tickets

    def handle(self, *ended: Job) -> None:
        """Let the jobs that waited for these to end, or to leave a worker, go on, or fail. What takes long is
        left to maintenance.

        Raises Unavailable; then all of it is left to maintenance."""
        for tenant in {job.tenant for job in ended}:
            self._send(self._limits.unpark(tenant))
        if any(job.is_terminal and job.awaited for job in ended):
            self.settle()

    def settle(self, seconds: float = 1.0) -> list[Job]:
        """Settle the dependencies of every job that has ended, for about so many seconds; returns the jobs
        that were moved. Raises Unavailable."""
        moved = self._dependencies.settle(seconds)
        for job in moved:
            if job.status is Status.QUEUED:
                self._tickets.send(job.queue)
            publish_status(self._events, job)
        return moved

    def unpark(self) -> None:
        """Unpark the jobs of all tenants that have fewer running than they may. Raises Unavailable."""
        self._send(self._limits.unpark_all())

    def _send(self, tickets: Mapping[str, int]) -> None:
        for queue, count in tickets.items():
            self._tickets.send(queue, count)
