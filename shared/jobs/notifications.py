"""The webhook events of jobs: which step is told to whom, and the body that the receiver gets."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.engine import Connection

from shared.ids import new_id
from shared.jobs import serialization
from shared.jobs.entities import Job
from shared.webhooks import outbox
from shared.webhooks.subscription import EVENTS, Webhook


def append(connection: Connection, moved: Sequence[Job], now: float) -> None:
    """Write the events that clients asked for into the outbox, in the transaction that moved these jobs."""
    events = [
        _event(job, job.webhook, EVENTS[job.status], now)
        for job in moved
        if job.webhook is not None and EVENTS.get(job.status) in job.webhook.events
    ]
    outbox.append(connection, events, now)


def _event(job: Job, webhook: Webhook, kind: str, now: float) -> outbox.Event:
    event_id = new_id("evt")
    body = {
        "id": event_id,
        "type": kind,
        "created_at": serialization.time(now),
        "data": serialization.job(job),
    }
    return outbox.Event(id=event_id, type=kind, tenant=job.tenant, job_id=job.id, webhook=webhook, body=body)
