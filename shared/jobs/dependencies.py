"""Jobs that wait for others: entered with their submission, settled when what they wait for has ended.

Nothing that ends a job waits for those that wait for it. An ended job that is ``awaited`` is an entry of a
list (a partial index), and ``settle`` works the list off in small transactions of its own: the jobs that
have all they need are queued, those that will never have it fail, and the failed ones are new entries. So a
chain of a thousand is a thousand steps and no recursion, and who dies on the way leaves the list to upkeep.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shared.chunks import in_chunks
from shared.db import bulk_insert, dialects
from shared.db.engine import Database
from shared.db.tables import dependencies, going_on, jobs, ready, status_in, unsettled
from shared.jobs import transitions
from shared.jobs.entities import Job
from shared.jobs.rows import to_job
from shared.jobs.scheduling.fair_queueing import FairQueue
from shared.states import TERMINAL, Status

#: jobs that one may wait for, and that those of one request may wait for together
MOST, MOST_IN_ONE_REQUEST = 1000, 10_000
#: ended jobs that one look at the list finds, and jobs that wait for them that one transaction moves
_ENDED, _WAITING = 32, 500

#: what is read of a job that others depend on
_LOOK = (jobs.c.id, jobs.c.tenant, jobs.c.status, jobs.c.error)

_Edge = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Waits:
    """What new jobs wait for, as it is found and locked in the transaction that submits them."""

    edges: dict[str, list[_Edge]] = field(default_factory=dict)
    #: by id, those that are there
    found: Mapping[str, Row[Any]] = field(default_factory=dict)

    @property
    def succeeded(self) -> set[str]:
        """The ids of those that have succeeded."""
        return {job_id for job_id, row in self.found.items() if row.status == Status.SUCCEEDED}

    def of(self, needed: str, tenant: str) -> Row[Any] | None:
        """The job, if it is there and the tenant's."""
        other = self.found.get(needed)
        return other if other is not None and other.tenant == tenant else None


def hold(connection: Connection, rows: Sequence[dict[str, Any]], also: Collection[str] = ()) -> Waits:
    """Let those new rows wait that depend on jobs which have not succeeded; call it before they are inserted.

    What they depend on is locked, so that it cannot end between this look and the commit; ``also`` are jobs
    that the transaction will write to later, which must not be locked out of turn then."""
    wanted = sorted({*also, *(needed for row in rows for needed in row["depends_on"] or ())})
    if not wanted:
        return Waits()
    found: dict[str, Row[Any]] = {}
    for ids in in_chunks(wanted):  # in the order of the ids, as everywhere
        dialects.lock_rows(connection, jobs.c.id, ids)
        found |= {row.id: row for row in connection.execute(sa.select(*_LOOK).where(jobs.c.id.in_(ids)))}
    waits = Waits({}, found)
    for row in rows:
        others = {needed: waits.of(needed, row["tenant"]) for needed in row["depends_on"] or ()}
        own = waits.edges[row["id"]] = [
            {
                "job_id": row["id"],
                "needs": needed,
                "met": other is not None and other.status == Status.SUCCEEDED.value,
            }
            for needed, other in others.items()
        ]
        if unmet := sum(not edge["met"] for edge in own):
            row |= {"status": Status.SCHEDULED.value, "waits_for": unmet, "queued_at": None}
    return waits


def enter(connection: Connection, waits: Waits, rows: Sequence[dict[str, Any]], now: float) -> list[Row[Any]]:
    """Note what the inserted rows wait for; returns those that failed at once, as it can never be there."""
    edges = [edge for row in rows for edge in waits.edges.get(row["id"], ())]
    if not edges:
        return []
    bulk_insert.insert(connection, dependencies, edges)
    tenants = {row["id"]: row["tenant"] for row in rows}
    hopeless: dict[str, list[str]] = {}
    awaited = set()
    for edge in edges:
        other = waits.of(edge["needs"], tenants[edge["job_id"]])
        if edge["met"]:
            continue
        if other is None or Status(other.status) in TERMINAL:
            hopeless.setdefault(edge["needs"], []).append(edge["job_id"])
        else:
            awaited.add(edge["needs"])
    for ids in in_chunks(sorted(awaited)):
        connection.execute(
            sa.update(jobs).where(jobs.c.id.in_(ids), sa.not_(jobs.c.awaited)).values(awaited=True)
        )
    failed = []
    for needed, ids in hopeless.items():
        by_tenant = waits.of(needed, tenants[ids[0]])
        failed += _fail(connection, ids, needed, by_tenant, now)
    return failed


def is_needed(connection: Connection, job_id: str) -> bool:
    """Whether a job that has not ended waits for this one, or may still read what it made."""
    waiting = (
        sa.select(dependencies.c.job_id)
        .join(jobs, jobs.c.id == dependencies.c.job_id)
        .where(dependencies.c.needs == job_id, going_on)
    )
    return connection.execute(waiting.limit(1)).first() is not None


class Dependencies:
    """Lets ends have their consequences for the jobs that wait for them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queue = FairQueue(database.dialect)

    def settle(self, seconds: float = 1.0) -> list[Job]:
        """Work the list off, for about so long at most; returns the jobs that this queued or failed."""
        deadline = time.monotonic() + seconds
        moved: list[Job] = []
        while ended := self._ended():
            good = [row.id for row in ended if row.status == Status.SUCCEEDED.value]
            if good:
                with self._database.write(durable=False) as connection:
                    moved += map(to_job, self._go_on(connection, good))
            for row in ended:
                if row.id not in good:
                    with self._database.write(durable=False) as connection:
                        moved += map(to_job, self._give_up(connection, row))
            if time.monotonic() >= deadline:
                break
        return moved

    def _ended(self) -> list[Row[Any]]:
        listed = sa.select(*_LOOK).where(unsettled).order_by(jobs.c.id).limit(_ENDED)
        with self._database.read() as connection:
            return list(connection.execute(listed))

    def _go_on(self, connection: Connection, good: Sequence[str]) -> list[Row[Any]]:
        """Queue the jobs, or some of them, that waited for nothing but these."""
        open_ = (dependencies.c.needs.in_(good), sa.not_(dependencies.c.met))
        some = sa.select(dependencies.c.job_id).where(*open_).order_by(dependencies.c.needs).limit(_WAITING)
        met = self._meet(connection, good, connection.execute(some).scalars().all())
        moved = self._wake(connection, Counter(met))
        _strike_off(connection, good)
        return moved

    def _give_up(self, connection: Connection, bad: Row[Any]) -> list[Row[Any]]:
        """Fail the jobs, or some of them, that wait for this one, be it by way of others."""
        open_ = sa.not_(dependencies.c.met)
        below = sa.select(dependencies.c.job_id.label("id")).where(dependencies.c.needs == bad.id, open_)
        below_it = below.cte("below", recursive=True)
        further = sa.select(dependencies.c.job_id).join(below_it, dependencies.c.needs == below_it.c.id)
        below_it = below_it.union(further.where(open_))
        lost = connection.execute(sa.select(below_it.c.id).limit(_WAITING)).scalars().all()
        self._meet(connection, [bad.id, *lost], lost)
        moved = _fail(connection, lost, bad.id, bad, self._database.now(connection)) if lost else []
        _strike_off(connection, [bad.id, *lost])
        return sorted(moved, key=lambda row: str(row.id))

    def _wake(self, connection: Connection, met: Counter[str]) -> list[Row[Any]]:
        """Count what jobs no longer wait for, and queue those that wait for nothing more."""
        for count in set(met.values()):
            ids = [job_id for job_id, own in met.items() if own == count]
            connection.execute(
                sa.update(jobs).where(jobs.c.id.in_(ids)).values(waits_for=jobs.c.waits_for - count)
            )
        now = self._database.now(connection)
        columns = (jobs.c.id, jobs.c.queue, jobs.c.priority, jobs.c.tenant)
        due = sa.or_(jobs.c.due_at.is_(None), jobs.c.due_at <= now)
        free = sa.select(*columns).where(jobs.c.id.in_(list(met)), status_in(Status.SCHEDULED), ready, due)
        rows: list[Row[Any]] = list(connection.execute(free.order_by(jobs.c.id))) if met else []
        if not rows:
            return []
        self._queue.tag(connection, rows)
        return transitions.apply(connection, "wake", jobs.c.id.in_([row.id for row in rows]), now=now)

    def _meet(self, connection: Connection, ended: Sequence[str], waiting: Sequence[str]) -> Sequence[str]:
        """Note that these have heard of those; returns who had not, once for each that it had not heard of.

        All rows that this transaction writes are locked here, in the order of their ids: whoever settles the
        same jobs, or submits one that depends on them, waits, and two never wait for each other."""
        dialects.lock_rows(connection, jobs.c.id, sorted({*ended, *waiting}))
        heard = (
            sa.update(dependencies)
            .where(dependencies.c.needs.in_(ended), dependencies.c.job_id.in_(waiting))
            .where(sa.not_(dependencies.c.met))
            .values(met=True)
            .returning(dependencies.c.job_id)
        )
        return connection.execute(heard).scalars().all()


def _strike_off(connection: Connection, ids: Sequence[str]) -> None:
    """Take those off the list that nobody waits for any more."""
    left = sa.select(dependencies.c.job_id).where(
        dependencies.c.needs == jobs.c.id, sa.not_(dependencies.c.met)
    )
    done = (jobs.c.id.in_(ids), jobs.c.awaited, sa.not_(left.exists()))
    connection.execute(sa.update(jobs).where(*done).values(awaited=False))


def _fail(
    connection: Connection, ids: Sequence[str], needed: str, other: Row[Any] | None, now: float
) -> list[Row[Any]]:
    """Fail the jobs that waited for ``other``, naming it, or the job that it failed for itself."""
    error = {"type": "dependency-failed", "message": _reason(needed, other), "retryable": False}
    return transitions.apply(connection, "give-up", jobs.c.id.in_(ids), now=now, error=error)


def _reason(needed: str, other: Row[Any] | None) -> str:
    if other is None or Status(other.status) not in TERMINAL:  # it is gone, or another tenant's
        return f"it depends on {needed}, which does not exist any more"
    said = other.error or {}
    if said.get("type") == "dependency-failed":
        return str(said["message"])
    match Status(other.status):
        case Status.CANCELED:
            return f"it depends on {needed}, which was canceled"
        case Status.EXPIRED:
            return f"it depends on {needed}, which did not start in time"
    return f"it depends on {needed}, which failed: {said.get('message', 'for no reason given')}"
