"""What follows from a job's end: those who watch it hear of it, and those that waited for it go on."""

from __future__ import annotations

from collections.abc import Mapping

from shared.db.engine import Database
from shared.jobs.dependencies import Dependencies
from shared.jobs.entities import Job
from shared.jobs.scheduling.concurrency_limits import Caps, Most, unlimited
from shared.messaging.events import Events, Speaker
from shared.messaging.tickets import Tickets
from shared.states import Status


def tell(events: Events, job: Job) -> None:
    """Publish the status of a job, and that it is done if it is."""
    status = {"status": job.shown_status.value}
    events.publish(job.id, "status", status, speaker=speaker_of(job))
    if job.is_terminal:
        events.publish(job.id, "done", status, speaker=speaker_of(job))


def speaker_of(job: Job) -> Speaker:
    """Whose state a row tells of."""
    return Speaker(job.attempt, over=job.status is not Status.RUNNING)


class Aftermath:
    def __init__(self, database: Database, events: Events, tickets: Tickets, most: Most = unlimited) -> None:
        """``most``: what a tenant may have running, see ``caps``."""
        self._dependencies = Dependencies(database)
        self._caps = Caps(database, most)
        self._events = events
        self._tickets = tickets

    def of(self, *ended: Job) -> None:
        """Let the jobs that waited for these to end, or to leave a worker, go on, or fail. What takes long is
        left to upkeep.

        Raises Unavailable; then all of it is left to upkeep."""
        for tenant in {job.tenant for job in ended}:
            self._send(self._caps.after_one_of(tenant))
        if any(job.is_terminal and job.awaited for job in ended):
            self.settle()

    def settle(self, seconds: float = 1.0) -> list[Job]:
        """The same for every job that has ended, for about so long; returns the jobs that were moved."""
        moved = self._dependencies.settle(seconds)
        for job in moved:
            if job.status is Status.QUEUED:
                self._tickets.send(job.queue)
            tell(self._events, job)
        return moved

    def let_in(self) -> None:
        """Let the jobs go on that waited until their tenant had less running."""
        self._send(self._caps.of_all())

    def _send(self, tickets: Mapping[str, int]) -> None:
        for queue, count in tickets.items():
            self._tickets.send(queue, count)
