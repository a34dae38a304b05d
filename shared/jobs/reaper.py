"""Moves the jobs that wait for time alone: expired leases, due retries, and jobs that did not start in time.

The worker that holds the maintenance lock calls these every few seconds.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shared.db import dialects
from shared.db.engine import Database
from shared.db.tables import jobs, ready, status_in
from shared.jobs import attempts, transitions
from shared.jobs.cancellation import CANCELED_WHILE_RUNNING
from shared.jobs.entities import TRAINING_QUEUE, Job
from shared.jobs.rows import to_job
from shared.jobs.scheduling.fair_queueing import FairQueue
from shared.states import Status

#: what the error of a lost job says of a worker of which nothing more is known
_DIED = "died or fell silent"
#: jobs that one transaction queues or expires
_MAX_TOGETHER = 1000


class Reaper:
    """Every method is one transaction, and raises Unavailable.

    What a reaped job allows others to do, such as to remove the files of its attempt, is durable before they
    are told."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queue = FairQueue(database.dialect)

    def reap(self) -> list[Job]:
        """Take back the jobs whose lease has expired: queued again, or ended where that was the last
        attempt."""
        with self._database.write(durable=self._database.is_server) as connection:
            now = self._database.now(connection)
            rows = connection.execute(_expired(self._database.dialect), {"now": now}).all()
            uncounted = _uncounted(rows)
            return [
                job
                for row in rows
                for job in self._take_back(connection, row, now, counts=row.id not in uncounted)
            ]

    def reap_worker(self, worker_id: str, computing: Collection[str], *, why: str = _DIED) -> list[Job]:
        """Take back the jobs of a worker that is known to be dead, or about to end, as ``reap`` does.

        Jobs that are not among those it was ``computing`` had no part in its death: their attempt does not
        count. ``why`` is what the error of the others says of the worker."""
        with self._database.write(durable=self._database.is_server) as connection:
            now = self._database.now(connection)
            held = sa.select(jobs).where(status_in(Status.RUNNING), jobs.c.worker == worker_id)
            rows = connection.execute(held.order_by(jobs.c.id)).all()
            uncounted = _uncounted([row for row in rows if row.id in computing])
            uncounted |= {row.id for row in rows if row.id not in computing}
            return [
                job
                for row in rows
                for job in self._take_back(connection, row, now, counts=row.id not in uncounted, why=why)
            ]

    def _take_back(
        self, connection: Connection, row: Row[Any], now: float, *, counts: bool, why: str = _DIED
    ) -> list[Job]:
        """Take a job from the worker that it was lost with; empty where another transaction has moved it
        already. ``counts``: whether the attempt counts against ``max_attempts``."""
        if not counts and row.cancel_requested_at is None:
            back = transitions.apply_to_one(
                connection, "hand-back", row.id, now=now, fence=row.attempt, attempts=row.attempts - 1
            )
            if back is None:
                return []
            attempts.note(connection, row, "handed-back", now=now)
            return [to_job(back)]
        lost = {
            "type": "worker-lost",
            "message": f"worker {row.worker} {why} in attempt {row.attempts} of {row.max_attempts}",
            "retryable": True,
        }
        how: attempts.How = "worker-lost"
        if row.cancel_requested_at is not None:
            step, error, how = "stop", CANCELED_WHILE_RUNNING, "canceled"
        elif row.attempts >= row.max_attempts:
            step, error = "fail", lost
        else:
            step, error = "try-again", lost
        this = jobs.c.id == row.id
        moved = transitions.apply(connection, step, this, now=now, fence=row.attempt, error=error)
        if moved:
            attempts.note(connection, row, how, now=now, error=error)
        return list(map(to_job, moved))

    def wake_due(self) -> list[Job]:
        """Queue the scheduled jobs whose time has come, for the first or a further attempt."""
        with self._database.write(durable=False) as connection:
            now = self._database.now(connection)
            due = connection.execute(_due(self._database.dialect), {"now": now}).all()
            # a job that waits for its next attempt has kept its start tag
            self._queue.tag(connection, [row for row in due if row.tag is None])
            these = jobs.c.id.in_([row.id for row in due])
            rows = transitions.apply(connection, "wake", these, now=now) if due else []
        return list(map(to_job, rows))

    def expire(self) -> list[Job]:
        """End the jobs that did not start in time."""
        with self._database.write(durable=self._database.is_server) as connection:
            now = self._database.now(connection)
            late = connection.execute(_late(self._database.dialect), {"now": now}).scalars().all()
            rows = transitions.apply(connection, "expire", jobs.c.id.in_(late), now=now) if late else []
        return list(map(to_job, rows))


def _uncounted(lost: Collection[Row[Any]]) -> set[str]:
    """The ids of those among jobs lost together whose attempt does not count.

    A training runs for hours beside jobs of seconds, and would be charged with the death of every job that
    kills the worker; it goes on from its checkpoint. The training itself may be what kills, so at most
    ``max_attempts`` of its attempts are not counted."""
    crowded = {row.worker for row in lost if row.queue != TRAINING_QUEUE}
    return {
        row.id
        for row in lost
        if row.queue == TRAINING_QUEUE
        and row.worker in crowded
        and row.attempt - row.attempts < row.max_attempts
    }


@cache
def _expired(dialect: str) -> sa.Executable:
    """The running jobs whose lease has expired. Those that another transaction writes to are left for the
    next call."""
    expired = sa.select(jobs).where(status_in(Status.RUNNING), jobs.c.lease_until < sa.bindparam("now"))
    return dialects.skip_locked(dialect, expired.order_by(jobs.c.id))


@cache
def _due(dialect: str) -> sa.Executable:
    """The scheduled jobs whose time has come, the earliest first, as many as one call takes."""
    due = (
        sa.select(jobs.c.id, jobs.c.queue, jobs.c.priority, jobs.c.tenant, jobs.c.tag)
        .where(status_in(Status.SCHEDULED), ready, jobs.c.due_at <= sa.bindparam("now"))
        .order_by(jobs.c.due_at)
        .limit(_MAX_TOGETHER)
    )
    return dialects.skip_locked(dialect, due)


@cache
def _late(dialect: str) -> sa.Executable:
    """The waiting jobs whose time is over. Those that another transaction writes to are left for the next
    call."""
    late = sa.select(jobs.c.id).where(
        status_in(Status.QUEUED, Status.SCHEDULED), jobs.c.expires_at <= sa.bindparam("now")
    )
    return dialects.skip_locked(dialect, late.order_by(jobs.c.id).limit(_MAX_TOGETHER))
