"""A ticket that a worker has taken, as Celery's tools show it."""

from __future__ import annotations

from typing import Any

from celery.worker.request import Request

#: by the id of a ticket, the job that it runs now; ``TicketRequest`` reads it on Celery's own thread
running: dict[str, str] = {}


class TicketRequest(Request):
    """``celery inspect active`` shows what this says."""

    def info(self, safe: bool = False) -> Any:
        """What Celery says of a request, and the id of its job; None where it looks for one."""
        return {**super().info(safe), "job": running.get(str(self.id))}
