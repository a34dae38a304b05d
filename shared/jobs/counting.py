"""How many jobs there are in each status that clients see."""

from __future__ import annotations

from functools import cache

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shared.db.tables import ended_badly, jobs, shown_status, status_in, waiting
from shared.states import Status

_HOW_MANY = sa.func.count()


def some(connection: Connection, tenant: str | None, group: str | None) -> dict[str, int]:
    """The jobs of a tenant, of a group or of both. Reads each of them."""
    query = sa.select(shown_status, _HOW_MANY).group_by(shown_status)
    if tenant is not None:
        query = query.where(jobs.c.tenant == tenant)
    if group is not None:
        query = query.where(jobs.c.group_name == group)
    return dict(iter(connection.execute(query)))


def everything(connection: Connection) -> dict[str, int]:
    """All jobs. Counts entries of indexes: of the rows it reads those of scheduled jobs alone.

    Most jobs have succeeded, and no index knows them, which every job would have to pay for: they are what is
    left of all."""
    found: dict[str, int] = {}
    # jobs that wait for their next attempt are a part of their own, and queued like those of another
    for status, count in connection.execute(_parts()):
        found[status] = found.get(status, 0) + count
    found[Status.SUCCEEDED] = found.pop("all") - sum(found.values())
    return {status: count for status, count in found.items() if count}


@cache
def _parts() -> sa.Executable:
    """One statement, so that all parts see the same moment; each along the index of its own condition."""
    whole = sa.select(sa.literal_column("'all'", sa.String), _HOW_MANY).select_from(jobs)
    scheduled = sa.select(shown_status, _HOW_MANY).where(waiting, status_in(Status.SCHEDULED))
    others = [
        sa.select(jobs.c.status, _HOW_MANY).where(*where).group_by(jobs.c.status)
        for where in ((waiting, status_in(Status.QUEUED)), (status_in(Status.RUNNING),), (ended_badly,))
    ]
    return sa.union_all(whole, scheduled.group_by(shown_status), *others)
