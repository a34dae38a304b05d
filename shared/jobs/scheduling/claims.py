"""Claiming: one range of the index ``ix_jobs_claim``, however deep the queue is.

The first jobs of a queue are read in order; ``affinity`` chooses among them; they are taken where nobody was
faster. Nothing but the jobs taken is locked, so that workers do not wait for each other on PostgreSQL; on
SQLite there is one writer at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shared.db import dialects
from shared.db.engine import Database
from shared.db.tables import claimable, clocks, jobs, not_expired
from shared.jobs.scheduling.affinity import WINDOW, Candidate, Choice, VirtualClock, choose
from shared.jobs.scheduling.concurrency_limits import FreeSlots, RunningLimit, park, unlimited

#: looks at the head of a queue before a claim goes short: others may have been faster at all that was there,
#: or it is all of tenants that are full
_LOOKS = 4
#: how many jobs the next look reads when there are jobs at the head that may not run
_FURTHER = 256


#: gives jobs to a worker: of these ids, in order, up to so many that are still queued at this time (seconds
#: since 1970); returns their rows
Take = Callable[[Sequence[str], int, float], Sequence[Row[Any]]]


def claim(
    database: Database,
    connection: Connection,
    queue: str,
    take: Take,
    *,
    limit: int,
    resident: Collection[str] = (),
    running_limit: RunningLimit = unlimited,
) -> list[Row[Any]]:
    """Take up to ``limit`` jobs of a queue with ``take``; the rows, in the order in which they were chosen.

    ``resident``: the ids of models that are loaded where the jobs shall run. ``running_limit``: how
    many jobs a tenant may have running. A job past its ``expires_at`` is never taken."""
    taken: list[Row[Any]] = []
    slots = FreeSlots(database, connection, running_limit)
    size = WINDOW + limit
    for _ in range(_LOOKS):
        missing = limit - len(taken)
        head = _Head(database, connection, queue, size)
        if slots.count_for(head.candidates):
            head = _Head(database, connection, queue, size)
        candidates, beyond = slots.split(head.candidates)
        if candidates:
            choice = head.choose(candidates, resident, missing)
            rank = {job.id: place for place, job in enumerate(choice.jobs)}
            order = [*rank, *(job.id for job in candidates if job.id not in rank)]
            rows = take(order, missing, head.now)
            slots.take(rows)
            taken += sorted(rows, key=lambda row: order.index(row.id))
        park(database, connection, beyond)
        if len(taken) == limit or not head.is_full:
            break
        size = _FURTHER if beyond else WINDOW + limit - len(taken)
    return taken


class _Head:
    """The first ``size`` jobs of a queue, and the clocks of their priorities."""

    def __init__(self, database: Database, connection: Connection, queue: str, size: int) -> None:
        self._dialect, self._connection, self._queue = database.dialect, connection, queue
        self.now = database.now(connection)
        rows = connection.execute(_window(size), {"queue": queue, "the_time": self.now}).all()
        self.candidates = [Candidate(row.id, row.model, row.priority, row.tag, row.tenant) for row in rows]
        #: whether there may be more jobs behind these
        self.is_full = len(rows) == size
        self._clocks = {row.priority: _clock(row) for row in rows}
        self._new = {row.priority for row in rows if row.virtual is None}

    def choose(self, candidates: Sequence[Candidate], resident: Collection[str], limit: int) -> Choice:
        """Choose, and set the clocks to what follows. Overtaking is counted before it happens; where another
        worker moves the same clock at this moment, the jobs are chosen in turn."""
        choice = self._choose(candidates, resident, limit)
        if choice.overtaken and not self._set(choice, exact=True):
            choice = self._choose(candidates, (), limit)
        if not choice.overtaken:
            self._set(choice, exact=False)
        return choice

    def _choose(self, candidates: Sequence[Candidate], resident: Collection[str], limit: int) -> Choice:
        return choose(candidates, self._clocks, resident, limit=limit, now=self.now)

    def _set(self, choice: Choice, *, exact: bool) -> bool:
        """Write the clocks that a choice moved; False when one of them was not as it was read.

        Nobody waits for a clock: whoever holds it moves it about as far. ``exact`` says that it must move."""
        moved = True
        for priority in sorted({job.priority for job in choice.jobs}):
            before, after = self._clocks[priority], choice.clocks[priority]
            if after == before and priority not in self._new:
                continue
            lane = {"the_queue": self._queue, "the_priority": priority}
            values = {"virtual": after.virtual, "overtakes": after.overtakes, "overtaken_since": after.since}
            if priority in self._new:
                insert = _new_clock(self._dialect)
                moved &= self._connection.execute(insert, {**lane, **values}).first() is not None
            else:
                seen = {"seen_virtual": before.virtual, "seen_overtakes": before.overtakes} if exact else {}
                given = {**lane, **seen, **{f"new_{name}": value for name, value in values.items()}}
                update = _move_clock(self._dialect, exact=exact)
                moved &= self._connection.execute(update, given).rowcount == 1
        return moved


def _clock(row: Row[Any]) -> VirtualClock:
    return (
        VirtualClock()
        if row.virtual is None
        else VirtualClock(row.virtual, row.overtakes, row.overtaken_since)
    )


@lru_cache(maxsize=64)
def _window(size: int) -> sa.Executable:
    """The first jobs of a ``queue``. How many is part of the text: a planner that does not know it would plan
    for a tenth of the table."""
    return (
        sa.select(
            jobs.c.id,
            jobs.c.tenant,
            jobs.c.model,
            jobs.c.priority,
            jobs.c.tag,
            clocks.c.virtual,
            clocks.c.overtakes,
            clocks.c.overtaken_since,
        )
        .select_from(
            jobs.outerjoin(
                clocks, sa.and_(clocks.c.queue == jobs.c.queue, clocks.c.priority == jobs.c.priority)
            )
        )
        .where(jobs.c.queue == sa.bindparam("queue"), claimable, not_expired())
        .order_by(jobs.c.priority.desc(), jobs.c.tag, jobs.c.id)
        .limit(sa.literal_column(str(size)))
    )


@lru_cache(maxsize=8)
def _move_clock(dialect: str, *, exact: bool) -> sa.Executable:
    """Move the clock of a queue and a priority forward, unless another transaction has locked it."""
    here = [clocks.c.queue == sa.bindparam("the_queue"), clocks.c.priority == sa.bindparam("the_priority")]
    if exact:
        here += [
            clocks.c.virtual == sa.bindparam("seen_virtual"),
            clocks.c.overtakes == sa.bindparam("seen_overtakes"),
        ]
    virtual: sa.BindParameter[float] = sa.bindparam("new_virtual", type_=sa.Double)
    return (
        sa.update(clocks)
        .where(here[0], dialects.only_unlocked(dialect, clocks.c.priority, *here))
        .values(
            virtual=sa.case((clocks.c.virtual > virtual, clocks.c.virtual), else_=virtual),
            overtakes=sa.bindparam("new_overtakes"),
            overtaken_since=sa.bindparam("new_overtaken_since"),
        )
    )


@lru_cache(maxsize=2)
def _new_clock(dialect: str) -> sa.Executable:
    """Insert the clock of a queue and a priority, and return its queue, unless another transaction has
    inserted it: not every driver tells the number of rows that an INSERT made."""
    given: dict[str, Any] = {name: sa.bindparam(name) for name in ("virtual", "overtakes", "overtaken_since")}
    here: dict[str, Any] = {"queue": sa.bindparam("the_queue"), "priority": sa.bindparam("the_priority")}
    new = dialects.insert(dialect, clocks).values(here | given).on_conflict_do_nothing()
    returning: sa.Executable = new.returning(clocks.c.queue)
    return returning
