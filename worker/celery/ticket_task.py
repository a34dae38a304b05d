"""The task that a ticket starts, and what Celery's remote control tells of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery, Task
from celery.worker.request import Request

from shared.jobs.entities import Job
from shared.messaging.tickets import TICKET

#: runs the best job of a queue, and calls back with the job as soon as it is claimed
RunTicket = Callable[[str, Callable[[Job], None]], None]


class TicketRequest(Request):
    """A ticket that this worker has taken. ``celery inspect active`` shows ``info``."""

    def info(self, safe: bool = False) -> Any:
        """Celery's own facts, and the id of the job that the ticket runs: None until one is claimed."""
        task: Any = self.task
        return {**super().info(safe), "job_id": task.job_ids.get(self.id)}


class TicketTask(Task[..., None]):
    """Base of the ticket task; ``job_ids`` maps each ticket that runs to its job."""

    Request = "worker.celery.ticket_task:TicketRequest"
    job_ids: dict[str, str]


def register_ticket_task(app: Celery, run_ticket: RunTicket) -> None:
    """Let tickets that the app consumes call ``run_ticket``."""
    job_ids: dict[str, str] = {}

    def ticket(self: Any, queue: str) -> None:
        ticket_id = self.request.id
        try:
            run_ticket(queue, lambda job: job_ids.__setitem__(ticket_id, job.id))
        finally:
            job_ids.pop(ticket_id, None)

    app.task(name=TICKET, base=TicketTask, bind=True, ignore_result=True, job_ids=job_ids)(ticket)
