"""How many more jobs a tenant may have waiting, decided in the transaction that adds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shared.db import advisory_locks
from shared.db.engine import Database
from shared.db.tables import jobs, waiting
from shared.errors import OverLimit

#: seconds after which a place may have become free
_AGAIN = 5


class Room:
    """The places that are left, for the tenants that have a limit of waiting jobs.

    Counting reads a range of one index and ends at the limit. Two processes that add jobs of one tenant at
    once do it one after the other on PostgreSQL too: each counts what the other has committed.
    """

    def __init__(
        self, database: Database, connection: Connection, limits: Mapping[str, int], adding: Iterable[str]
    ) -> None:
        """``limits``: the most jobs that a tenant may have waiting, 0 for any number; ``adding``: whose jobs
        are about to be added."""
        limited = {tenant: limits[tenant] for tenant in set(adding) if limits.get(tenant)}
        advisory_locks.wait(database, connection, "submit", limited)
        self._limits = limited
        self._left = {tenant: most - _count(connection, tenant, most) for tenant, most in limited.items()}

    def take(self, tenant: str, count: int = 1) -> OverLimit | None:
        """Take places; where there are not so many, take none and say why."""
        left = self._left.get(tenant)
        if left is None:
            return None
        if left < count:
            most = self._limits[tenant]
            return OverLimit(
                "queued",
                most,
                f"tenant {tenant} may have {most} jobs waiting, and there is room for {max(0, left)} more, "
                f"not {count}: wait until some have started, or cancel some",
                retry_after=_AGAIN,
            )
        self._left[tenant] = left - count
        return None

    def give_back(self, tenant: str) -> None:
        """The place just taken was not needed."""
        if tenant in self._left:
            self._left[tenant] += 1


def _count(connection: Connection, tenant: str, most: int) -> int:
    some = sa.select(sa.literal(1)).select_from(jobs).where(jobs.c.tenant == tenant, waiting).limit(most)
    return connection.execute(sa.select(sa.func.count()).select_from(some.subquery())).scalar_one()
