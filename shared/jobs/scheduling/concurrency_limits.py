"""How many jobs of a tenant run at once: never more than its limit, whoever claims.

A claim counts what runs for a tenant that has a limit, while nobody else can claim for that tenant. The jobs
beyond the limit that the claim comes upon are *parked* (the column ``aside``): they leave the index that
claims read. So a deep backlog of a tenant that is at its limit costs each of its jobs one write, once, and
claims of other tenants' jobs do not read past it. When a job of the tenant ends, the best of its jobs are
unparked, as many as may run; they have kept their start tags, so they come before what was queued after them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shared.db import advisory_locks, dialects
from shared.db.engine import Database
from shared.db.tables import jobs, parked, status_in, waiting
from shared.jobs.scheduling.affinity import Candidate
from shared.jobs.scheduling.depths import distinct
from shared.states import Status

#: the most jobs of a tenant that may run at once, 0 for any number; raises Unavailable
RunningLimit = Callable[[str], int]

#: jobs of a queue that are unparked at once for a tenant that has no limit any more
_MAX_UNPARKED = 1000


def unlimited(_tenant: str) -> int:
    """No tenant has a limit."""
    return 0


class FreeSlots:
    """How many more jobs tenants may run, in the transaction of one claim."""

    def __init__(self, database: Database, connection: Connection, limit: RunningLimit) -> None:
        self._database, self._connection, self._limit = database, connection, limit
        self._left: dict[str, int] = {}
        self._has_locked = False

    def count_for(self, candidates: Sequence[Candidate]) -> bool:
        """Count for the tenants of these candidates what else they may run. True where that may have taken
        long, so that other workers have claimed some of the candidates.

        The first time it waits for other claims, which hold no locks that this one could have. Later it may
        hold some, and leaves out the tenants for whom another claim counts at this moment."""
        tenants = {tenant for one in candidates if self._limit(tenant := one.tenant)} - self._left.keys()
        if not tenants:
            return False
        if self._has_locked:
            tenants = advisory_locks.try_(self._database, self._connection, "run", tenants)
        else:
            advisory_locks.wait(self._database, self._connection, "run", tenants)
        self._has_locked = True
        runs = _running(self._connection, tenants)
        self._left |= {tenant: self._limit(tenant) - runs.get(tenant, 0) for tenant in tenants}
        return self._database.is_server

    def split(self, candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[str]]:
        """The candidates that may be claimed, all of them, and the ids of those beyond their tenant's limit;
        without those of tenants that were not counted."""
        left: dict[str, int] = dict(self._left)
        free, beyond = [], []
        for one in candidates:
            if one.tenant not in left:
                if not self._limit(one.tenant):
                    free.append(one)
                continue
            if left[one.tenant] > 0:
                free.append(one)
            else:
                beyond.append(one.id)
            left[one.tenant] -= 1
        return free, beyond

    def take(self, claimed: Iterable[Row[Any]]) -> None:
        """Count the rows that were claimed."""
        for row in claimed:
            if row.tenant in self._left:
                self._left[row.tenant] -= 1


def park(database: Database, connection: Connection, ids: Collection[str]) -> None:
    """Take these queued jobs out of the index that claims read."""
    if ids:
        _set_parked(database, connection, ids, value=True)


class ConcurrencyLimits:
    """Unparks jobs. Every method makes transactions of its own, and raises Unavailable."""

    def __init__(self, database: Database, limit: RunningLimit = unlimited) -> None:
        self._database, self._limit = database, limit

    def unpark(self, tenant: str) -> Counter[str]:
        """A job of the tenant has ended: unpark as many of its jobs as may run now; how many, by queue."""
        return self._unpark(tenant) if self._limit(tenant) else Counter()

    def unpark_all(self) -> Counter[str]:
        """Unpark for every tenant, also where its limit has changed or the process that ended a job died
        before ``unpark``."""
        with self._database.read() as connection:
            tenants = distinct(connection, jobs.c.tenant, parked)
            runs = _running(connection, tenants)
        unparked: Counter[str] = Counter()
        for tenant in tenants:
            if not (limit := self._limit(tenant)) or runs.get(tenant, 0) < limit:
                unparked += self._unpark(tenant)
        return unparked

    def _unpark(self, tenant: str) -> Counter[str]:
        unparked: Counter[str] = Counter()
        with self._database.write(durable=False) as connection:
            advisory_locks.wait(self._database, connection, "run", [tenant])
            queues = distinct(connection, jobs.c.queue, parked, jobs.c.tenant == tenant)
            slots = _MAX_UNPARKED
            if queues and (limit := self._limit(tenant)):
                slots = min(limit - _running(connection, [tenant]).get(tenant, 0), _MAX_UNPARKED)
            for queue in queues if slots > 0 else ():
                best = connection.execute(_best(slots), {"the_tenant": tenant, "the_queue": queue})
                if ids := [row.id for row in best if row.aside]:
                    unparked[queue] = _set_parked(self._database, connection, ids, value=False)
        return unparked


def _running(connection: Connection, tenants: Collection[str]) -> dict[str, int]:
    """How many jobs of each tenant run; tenants without any are left out."""
    if not tenants:
        return {}
    query = sa.select(jobs.c.tenant, sa.func.count()).where(
        status_in(Status.RUNNING), jobs.c.tenant.in_(sorted(tenants))
    )
    return dict(iter(connection.execute(query.group_by(jobs.c.tenant))))


def _best(count: int) -> sa.Executable:
    """The first queued jobs of a tenant in a queue, parked or not."""
    return (
        sa.select(jobs.c.id, jobs.c.aside)
        .where(waiting, status_in(Status.QUEUED))
        .where(jobs.c.tenant == sa.bindparam("the_tenant"), jobs.c.queue == sa.bindparam("the_queue"))
        .order_by(jobs.c.priority.desc(), jobs.c.tag, jobs.c.id)
        .limit(count)
    )


def _set_parked(database: Database, connection: Connection, ids: Collection[str], *, value: bool) -> int:
    """Park or unpark queued jobs; how many were changed. A job that another transaction writes to at this
    moment is left: it is being claimed or canceled, and then it does not matter any more."""
    queued = status_in(Status.QUEUED)
    these = dialects.only_unlocked(database.dialect, jobs.c.id, jobs.c.id.in_(ids), queued)
    return connection.execute(sa.update(jobs).where(these, queued).values(aside=value)).rowcount
