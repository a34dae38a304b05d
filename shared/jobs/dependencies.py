"""Jobs that depend on others: noted when they are submitted, settled when the others have ended.

The transaction that ends a job does not move the jobs that depend on it. An ended job that is ``awaited`` is
an entry of a work list, which is a partial index, and ``settle`` works the list off in small transactions of
its own: jobs whose dependencies have all succeeded are queued, jobs with one that ended badly fail, and these
are new entries. So a chain of a thousand jobs takes a thousand steps and no recursion, and where a process
dies on the way, maintenance works off the rest.
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

#: jobs that one job may depend on, and that the jobs of one request may depend on together
MAX_DEPENDENCIES, MAX_DEPENDENCIES_PER_REQUEST = 1000, 10_000
#: ended jobs that one query finds, and waiting jobs that one transaction moves
_MAX_ENDED, _MAX_MOVED = 32, 500

#: the columns that are read of a job that others depend on
_NEEDED = (jobs.c.id, jobs.c.tenant, jobs.c.status, jobs.c.error)

_Edge = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Waits:
    """What new jobs depend on, as the transaction that submits them has found and locked it."""

    #: by id of a new job, the rows of ``dependencies`` to insert
    edges: dict[str, list[_Edge]] = field(default_factory=dict)
    #: by id, the rows of the jobs that others depend on, as far as they exist
    found: Mapping[str, Row[Any]] = field(default_factory=dict)

    @property
    def succeeded(self) -> set[str]:
        """The ids of the locked jobs that have succeeded."""
        return {job_id for job_id, row in self.found.items() if row.status == Status.SUCCEEDED}

    def of(self, needed: str, tenant: str) -> Row[Any] | None:
        """The row of the job, None where it does not exist or is another tenant's."""
        other = self.found.get(needed)
        return other if other is not None and other.tenant == tenant else None


def hold(connection: Connection, rows: Sequence[dict[str, Any]], also: Collection[str] = ()) -> Waits:
    """Make those new rows scheduled that depend on jobs which have not succeeded; call it before the insert.

    The jobs that they depend on are locked, so that none ends between this query and the commit. ``also``:
    ids of jobs that the transaction will write to later, locked with them in one order."""
    wanted = sorted({*also, *(needed for row in rows for needed in row["depends_on"] or ())})
    if not wanted:
        return Waits()
    found: dict[str, Row[Any]] = {}
    for ids in in_chunks(wanted):  # in the order of the ids, as everywhere
        dialects.lock_rows(connection, jobs.c.id, ids)
        found |= {row.id: row for row in connection.execute(sa.select(*_NEEDED).where(jobs.c.id.in_(ids)))}
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
    """Insert what the new jobs depend on; the rows of those that fail at once, since a job that they depend
    on has ended badly or does not exist."""
    edges = [edge for row in rows for edge in waits.edges.get(row["id"], ())]
    if not edges:
        return []
    bulk_insert.insert(connection, dependencies, edges)
    tenants = {row["id"]: row["tenant"] for row in rows}
    unmeetable: dict[str, list[str]] = {}
    awaited = set()
    for edge in edges:
        other = waits.of(edge["needs"], tenants[edge["job_id"]])
        if edge["met"]:
            continue
        if other is None or Status(other.status) in TERMINAL:
            unmeetable.setdefault(edge["needs"], []).append(edge["job_id"])
        else:
            awaited.add(edge["needs"])
    for ids in in_chunks(sorted(awaited)):
        connection.execute(
            sa.update(jobs).where(jobs.c.id.in_(ids), sa.not_(jobs.c.awaited)).values(awaited=True)
        )
    failed = []
    for needed, ids in unmeetable.items():
        by_tenant = waits.of(needed, tenants[ids[0]])
        failed += _fail(connection, ids, needed, by_tenant, now)
    return failed


def is_needed(connection: Connection, job_id: str) -> bool:
    """Whether a job that depends on this one has not ended: it may still read this one's outputs."""
    waiting = (
        sa.select(dependencies.c.job_id)
        .join(jobs, jobs.c.id == dependencies.c.job_id)
        .where(dependencies.c.needs == job_id, going_on)
    )
    return connection.execute(waiting.limit(1)).first() is not None


class Dependencies:
    """Moves the jobs that depend on ended ones."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queue = FairQueue(database.dialect)

    def settle(self, seconds: float = 1.0) -> list[Job]:
        """Work the list off, for about so many seconds; the jobs that this queued or failed.

        Raises Unavailable."""
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
        listed = sa.select(*_NEEDED).where(unsettled).order_by(jobs.c.id).limit(_MAX_ENDED)
        with self._database.read() as connection:
            return list(connection.execute(listed))

    def _go_on(self, connection: Connection, good: Sequence[str]) -> list[Row[Any]]:
        """Queue the jobs, or some of them, whose last unmet dependencies were these succeeded jobs."""
        open_ = (dependencies.c.needs.in_(good), sa.not_(dependencies.c.met))
        some = sa.select(dependencies.c.job_id).where(*open_).order_by(dependencies.c.needs).limit(_MAX_MOVED)
        met = self._mark_met(connection, good, connection.execute(some).scalars().all())
        moved = self._wake(connection, Counter(met))
        _remove_settled(connection, good)
        return moved

    def _give_up(self, connection: Connection, bad: Row[Any]) -> list[Row[Any]]:
        """Fail the jobs, or some of them, that depend on this one, directly or by way of others."""
        open_ = sa.not_(dependencies.c.met)
        below = sa.select(dependencies.c.job_id.label("id")).where(dependencies.c.needs == bad.id, open_)
        below_it = below.cte("below", recursive=True)
        further = sa.select(dependencies.c.job_id).join(below_it, dependencies.c.needs == below_it.c.id)
        below_it = below_it.union(further.where(open_))
        lost = connection.execute(sa.select(below_it.c.id).limit(_MAX_MOVED)).scalars().all()
        self._mark_met(connection, [bad.id, *lost], lost)
        moved = _fail(connection, lost, bad.id, bad, self._database.now(connection)) if lost else []
        _remove_settled(connection, [bad.id, *lost])
        return sorted(moved, key=lambda row: str(row.id))

    def _wake(self, connection: Connection, met: Counter[str]) -> list[Row[Any]]:
        """Subtract the dependencies that each job no longer waits for; queue the jobs that have none left."""
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

    def _mark_met(
        self, connection: Connection, ended: Sequence[str], waiting: Sequence[str]
    ) -> Sequence[str]:
        """Mark the dependencies of the ``waiting`` jobs on the ``ended`` ones as met.

        Returns the id of a waiting job once for each of its dependencies that was not met before. All rows of
        ``jobs`` that this transaction writes are locked here, in the order of their ids: a transaction that
        settles the same jobs, or submits one that depends on them, waits, and no two deadlock."""
        dialects.lock_rows(connection, jobs.c.id, sorted({*ended, *waiting}))
        newly_met = (
            sa.update(dependencies)
            .where(dependencies.c.needs.in_(ended), dependencies.c.job_id.in_(waiting))
            .where(sa.not_(dependencies.c.met))
            .values(met=True)
            .returning(dependencies.c.job_id)
        )
        return connection.execute(newly_met).scalars().all()


def _remove_settled(connection: Connection, ids: Sequence[str]) -> None:
    """Take those of the ended jobs off the work list that no job waits for any more."""
    left = sa.select(dependencies.c.job_id).where(
        dependencies.c.needs == jobs.c.id, sa.not_(dependencies.c.met)
    )
    done = (jobs.c.id.in_(ids), jobs.c.awaited, sa.not_(left.exists()))
    connection.execute(sa.update(jobs).where(*done).values(awaited=False))


def _fail(
    connection: Connection, ids: Sequence[str], needed: str, other: Row[Any] | None, now: float
) -> list[Row[Any]]:
    """Fail the jobs that depend on ``needed``; the error names it, or the job that it failed for itself."""
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
