"""Fair shares: the tags that put the jobs of a queue and a priority in order.

Start-time fair queueing (P. Goyal, H. Vin, H. Cheng, "Start-time Fair Queueing: A Scheduling Algorithm for
Integrated Services Packet Switching Networks", SIGCOMM 1996), with jobs for packets and tenants for flows.
Each job costs 1. When it is queued, a tenant of weight w gets

    start  = max(virtual time, finish tag of the tenant's last job)
    finish = start + 1 / w

and jobs are claimed in the order of their start tags. The virtual time is the greatest start tag claimed so
far, as in W. Jin, J. Chase, J. Kaur, "Interposed Proportional Sharing for a Storage Service Utility",
SIGMETRICS 2004, where several servers work at once. So a tenant that was idle begins where the others are and
has saved up nothing, and one that queued much has its later jobs far behind. Tags are written once: claiming
reads a range of one index. Every queue and every priority has virtual time and finish tags of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shared.db import dialects
from shared.db.tables import clocks, jobs, shares, tenants

#: written into the text of a statement, not bound to it
_ZERO: sa.ColumnElement[float] = sa.literal_column("0.0", sa.Double)


class Lane(NamedTuple):
    """Where a tenant's jobs come one after the other."""

    queue: str
    priority: int
    tenant: str


class FairQueue:
    """Gives tags, in the transaction that queues the jobs. The weights are those in ``tenants``, else 1."""

    def __init__(self, dialect: str) -> None:
        self._dialect = dialect

    def tags(self, connection: Connection, lanes: Sequence[Lane]) -> list[float]:
        """The start tags of jobs that are queued now, in order: one statement, however many they are."""
        if not lanes:
            return []
        jobs_of = Counter(lanes)
        given: dict[str, Any] = {}
        for number, lane in enumerate(sorted(jobs_of)):  # in one order: two batches must not deadlock
            given |= {f"{name}_{number}": value for name, value in lane._asdict().items()}
            given[f"count_{number}"] = jobs_of[lane]
        following, costs = {}, {}
        for row in connection.exec_driver_sql(_charge(self._dialect, len(jobs_of)), given):
            lane = Lane(row.queue, row.priority, row.tenant)
            following[lane], costs[lane] = row.finish - jobs_of[lane] / row.weight, 1.0 / row.weight
        tags = []
        for lane in lanes:
            tags.append(following[lane])
            following[lane] += costs[lane]
        return tags

    def tag(self, connection: Connection, due: Sequence[Row[Any]]) -> None:
        """Write the tags of rows of ``jobs`` that are about to be queued for the first time."""
        tags = self.tags(connection, [Lane(row.queue, row.priority, row.tenant) for row in due])
        if tags:
            connection.execute(
                sa.update(jobs).where(jobs.c.id == sa.bindparam("job")).values(tag=sa.bindparam("start")),
                [{"job": row.id, "start": tag} for row, tag in zip(due, tags, strict=True)],
            )

    def refund(self, connection: Connection, lanes: Sequence[Lane]) -> None:
        """Take back the cost of jobs that got a tag and were not queued after all."""
        for lane, count in sorted(Counter(lanes).items()):
            connection.execute(
                sa.update(shares)
                .where(*(shares.c[name] == value for name, value in lane._asdict().items()))
                .values(finish=shares.c.finish - count / _weight(sa.literal(lane.tenant)))
            )


@lru_cache(maxsize=256)
def _charge(dialect: str, lanes: int) -> str:
    """Move the finish tags of so many lanes on by ``count_0``, ``count_1``… jobs; return them and the
    weights of their tenants.

    A lane's row stays locked to the end of the transaction: whoever queues next sees it moved. As the
    driver takes it, since SQLAlchemy compiles an insert of several rows anew each time, for longer than it
    takes to execute it."""
    virtual = sa.select(clocks.c.virtual)
    rows = [
        {
            **{name: sa.bindparam(f"{name}_{number}", type_=shares.c[name].type) for name in Lane._fields},
            "finish": sa.bindparam(f"count_{number}", type_=sa.Double)
            / _weight(sa.bindparam(f"tenant_{number}", type_=shares.c.tenant.type))
            + _or_zero(
                virtual.where(
                    clocks.c.queue == sa.bindparam(f"queue_{number}"),
                    clocks.c.priority == sa.bindparam(f"priority_{number}"),
                )
            ),
        }
        for number in range(lanes)
    ]
    insert = dialects.insert(dialect, shares).values(rows)
    # as text: within an insert, SQLAlchemy would take the columns of ``shares`` for a second table to read
    there = [clocks.c[name] == sa.literal_column(f"shares.{name}") for name in ("queue", "priority")]
    lead = shares.c.finish - _or_zero(virtual.where(*there))
    # what was to be inserted is virtual time + cost; the tenant may be further than the virtual time
    further = insert.excluded.finish + sa.case((lead > _ZERO, lead), else_=_ZERO)
    moved = insert.on_conflict_do_update(index_elements=list(Lane._fields), set_={"finish": further})
    weight = _weight(sa.literal_column("shares.tenant")).label("weight")
    return dialects.driver_text(dialect, moved.returning(*shares.c, weight))


def _or_zero(query: sa.Select[Any]) -> sa.ColumnElement[float]:
    return sa.func.coalesce(query.scalar_subquery(), _ZERO)


def _weight(tenant: sa.ColumnElement[str]) -> sa.ColumnElement[float]:
    own = sa.select(tenants.c.weight).where(tenants.c.name == tenant)
    return sa.func.coalesce(own.scalar_subquery(), sa.literal_column("1.0", sa.Double))
