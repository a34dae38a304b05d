"""How many jobs wait in each queue."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shared.db.tables import claimable, jobs, parked


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """How many jobs of a queue wait: those that a worker may take now, and, counted apart, the parked ones,
    whose tenant runs as many jobs as it may."""

    queue: str
    queued: int
    #: seconds since the oldest of the ``queued`` jobs was queued; None where there is none
    oldest_seconds: float | None
    held_back: int


def depths(connection: Connection, now: float) -> list[QueueDepth]:
    """The queues that have jobs waiting, by name. Takes as long as there are such jobs."""
    oldest = sa.func.min(jobs.c.queued_at)
    ready = sa.select(jobs.c.queue, sa.func.count(), oldest).where(claimable).group_by(jobs.c.queue)
    held = sa.select(jobs.c.queue, sa.func.count()).where(parked).group_by(jobs.c.queue)
    found = {queue: (count, max(0.0, now - since)) for queue, count, since in connection.execute(ready)}
    held_back: dict[str, int] = dict(iter(connection.execute(held)))
    return [
        QueueDepth(queue, *found.get(queue, (0, None)), held_back.get(queue, 0))
        for queue in sorted(found.keys() | held_back.keys())
    ]


def ready(connection: Connection, most: int) -> dict[str, int]:
    """How many jobs of each queue may be claimed, counted up to ``most``, however many there are; queues
    without any are left out."""
    return {
        queue: connection.execute(_some(), {"queue": queue, "most": most}).scalar_one()
        for queue in distinct(connection, jobs.c.queue, claimable)
    }


def distinct(connection: Connection, column: sa.Column[str], *where: sa.ColumnElement[bool]) -> list[str]:
    """The different values of a column among some jobs, in order: a step of an index for each."""
    least = sa.select(sa.func.min(column)).where(*where, column > sa.bindparam("last"))
    found: list[str] = []
    while (value := connection.execute(least, {"last": found[-1] if found else ""}).scalar()) is not None:
        found.append(value)
    return found


@cache
def _some() -> sa.Executable:
    # in order, though any order would do: else a planner may look for them throughout the table
    some = (
        sa.select(jobs.c.id)
        .where(jobs.c.queue == sa.bindparam("queue"), claimable)
        .order_by(jobs.c.priority.desc(), jobs.c.tag, jobs.c.id)
        .limit(sa.bindparam("most"))
    )
    return sa.select(sa.func.count()).select_from(some.subquery())
