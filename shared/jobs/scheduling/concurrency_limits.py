"""How many jobs of a tenant run at once: never more than its limit, whoever claims.

A claim counts what runs for a tenant that has a limit, while nobody else can claim for that tenant. Its jobs
beyond the limit that the claim comes upon are set *aside*: they leave the index that claims read. So a deep
backlog of a tenant that is full costs each of its jobs one write, once, and others' claims no long way past
it. When a job of the tenant ends, the best of its jobs are let in again, as many as may run; they have kept
their tags, so they come before what was queued after them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shared.db import advisory_locks
from shared.db.engine import Database
from shared.db.tables import jobs, set_aside, status_in, waiting
from shared.jobs.scheduling.affinity import Candidate
from shared.jobs.scheduling.depths import each
from shared.states import Status

#: the most jobs of a tenant that may run at once, 0 for any number
Most = Callable[[str], int]

#: jobs of a queue that are let in at once for a tenant that has no limit any more
_LET_IN = 1000


def unlimited(_tenant: str) -> int:
    """No tenant has a limit."""
    return 0


class Places:
    """What tenants may still run, in the transaction of one claim."""

    def __init__(self, database: Database, connection: Connection, most: Most) -> None:
        self._database, self._connection, self._most = database, connection, most
        self._left: dict[str, int] = {}
        self._has_locked = False

    def count_for(self, candidates: Sequence[Candidate]) -> bool:
        """Find out how many more may run of the tenants of these; whether that may have taken a while, so
        that others have claimed some of these.

        The first time it waits for others, who hold no locks that this claim could have. Later on it may
        have some, and leaves out the tenants for whom others claim at this moment."""
        tenants = {tenant for one in candidates if self._most(tenant := one.tenant)} - self._left.keys()
        if not tenants:
            return False
        if self._has_locked:
            tenants = advisory_locks.try_(self._database, self._connection, "run", tenants)
        else:
            advisory_locks.wait(self._database, self._connection, "run", tenants)
        self._has_locked = True
        runs = _running(self._connection, tenants)
        self._left |= {tenant: self._most(tenant) - runs.get(tenant, 0) for tenant in tenants}
        return self._database.is_server

    def sift(self, candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[str]]:
        """Those that may be claimed, all of them, and the ids of those beyond their tenant's limit; without
        those of tenants that were not counted."""
        left: dict[str, int] = dict(self._left)
        free, beyond = [], []
        for one in candidates:
            if one.tenant not in left:
                if not self._most(one.tenant):
                    free.append(one)
                continue
            if left[one.tenant] > 0:
                free.append(one)
            else:
                beyond.append(one.id)
            left[one.tenant] -= 1
        return free, beyond

    def take(self, rows: Iterable[Row[Any]]) -> None:
        """These were claimed."""
        for row in rows:
            if row.tenant in self._left:
                self._left[row.tenant] -= 1


def put_aside(database: Database, connection: Connection, ids: Collection[str]) -> None:
    """Take these jobs out of the way of claims."""
    if ids:
        _move(database, connection, ids, aside=True)


class Caps:
    """Lets the jobs that were set aside in again."""

    def __init__(self, database: Database, most: Most = unlimited) -> None:
        self._database, self._most = database, most

    def after_one_of(self, tenant: str) -> Counter[str]:
        """A job of the tenant has ended: let in as many as may run now; how many, by queue."""
        return self._let_in(tenant) if self._most(tenant) else Counter()

    def of_all(self) -> Counter[str]:
        """The same for every tenant, also where a limit has changed, or whoever ended a job died of it."""
        with self._database.read() as connection:
            tenants = each(connection, jobs.c.tenant, set_aside)
            runs = _running(connection, tenants)
        let_in: Counter[str] = Counter()
        for tenant in tenants:
            if not (most := self._most(tenant)) or runs.get(tenant, 0) < most:
                let_in += self._let_in(tenant)
        return let_in

    def _let_in(self, tenant: str) -> Counter[str]:
        let_in: Counter[str] = Counter()
        with self._database.write(durable=False) as connection:
            advisory_locks.wait(self._database, connection, "run", [tenant])
            queues = each(connection, jobs.c.queue, set_aside, jobs.c.tenant == tenant)
            places = _LET_IN
            if queues and (most := self._most(tenant)):
                places = min(most - _running(connection, [tenant]).get(tenant, 0), _LET_IN)
            for queue in queues if places > 0 else ():
                best = connection.execute(_best(places), {"the_tenant": tenant, "the_queue": queue})
                if ids := [row.id for row in best if row.aside]:
                    let_in[queue] = _move(self._database, connection, ids, aside=False)
        return let_in


def _running(connection: Connection, tenants: Collection[str]) -> dict[str, int]:
    """How many jobs of each run; those without any are left out."""
    if not tenants:
        return {}
    query = sa.select(jobs.c.tenant, sa.func.count()).where(
        status_in(Status.RUNNING), jobs.c.tenant.in_(sorted(tenants))
    )
    return dict(iter(connection.execute(query.group_by(jobs.c.tenant))))


def _best(count: int) -> sa.Executable:
    """The first jobs of a tenant in a queue, whether they are aside or not."""
    return (
        sa.select(jobs.c.id, jobs.c.aside)
        .where(waiting, status_in(Status.QUEUED))
        .where(jobs.c.tenant == sa.bindparam("the_tenant"), jobs.c.queue == sa.bindparam("the_queue"))
        .order_by(jobs.c.priority.desc(), jobs.c.tag, jobs.c.id)
        .limit(count)
    )


def _move(database: Database, connection: Connection, ids: Collection[str], *, aside: bool) -> int:
    """Set jobs aside, or let them in; how many were moved. Who writes one at this moment is not waited for:
    a claim, or a cancellation, and then it does not matter any more."""
    which = [jobs.c.id.in_(ids), status_in(Status.QUEUED)]
    if database.dialect == "postgresql":
        free = sa.select(jobs.c.id).where(*which).with_for_update(skip_locked=True)
        which[0] = jobs.c.id == sa.any_(sa.func.array(free.scalar_subquery()))
    return connection.execute(sa.update(jobs).where(*which).values(aside=aside)).rowcount
