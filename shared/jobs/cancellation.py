"""Canceling: what waits ends at once, what runs is asked to stop at its next step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shared.db import dialects
from shared.db.engine import Database
from shared.db.tables import going_on, jobs, status_in
from shared.jobs import transitions
from shared.states import Status

#: jobs in one transaction, since it may make other writers wait: for a row, or on SQLite for their turn
MAX_TOGETHER = 500

#: the errors of canceled jobs
CANCELED_WHILE_RUNNING = {"type": "canceled", "message": "canceled while it ran", "retryable": False}
_CANCELED_BEFORE_START = {"type": "canceled", "message": "canceled before it started", "retryable": False}


def cancel(database: Database, connection: Connection, ids: Sequence[str]) -> list[Row[Any]]:
    """Cancel these jobs, up to ``MAX_TOGETHER``; the rows of those that had not ended, by id."""
    dialects.lock_rows(connection, jobs.c.id, ids)  # none starts between the two steps
    now = database.now(connection)
    these = jobs.c.id.in_(ids)
    rows = transitions.apply(connection, "cancel", these, now=now, error=_CANCELED_BEFORE_START)
    asked = (
        sa.update(jobs)
        .where(these, status_in(Status.RUNNING))
        .values(cancel_requested_at=sa.func.coalesce(jobs.c.cancel_requested_at, now))
        .returning(jobs)
    )
    rows += connection.execute(asked)
    return sorted(rows, key=lambda row: str(row.id))


def members_going_on(connection: Connection, group: str, tenant: str) -> list[str] | None:
    """The ids of a group's jobs that have not ended, in order; None where there is no such group."""
    members = (jobs.c.tenant == tenant, jobs.c.group_name == group)
    ids = (
        connection.execute(sa.select(jobs.c.id).where(*members, going_on).order_by(jobs.c.id)).scalars().all()
    )
    if not ids and connection.execute(sa.select(jobs.c.id).where(*members).limit(1)).first() is None:
        return None
    return list(ids)
