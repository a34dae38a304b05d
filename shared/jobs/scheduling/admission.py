"""How many more jobs a tenant may have waiting, decided in the transaction that adds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shared.db import advisory_locks
from shared.db.engine import Database
from shared.db.tables import jobs, waiting
from shared.errors import OverLimit

#: seconds after which a client may ask again
_RETRY_AFTER = 5


class WaitingQuota:
    """How many more jobs the tenants with a limit of waiting jobs may add, in one transaction.

    Counting reads a range of one index and ends at the limit. Two processes that add jobs of one tenant at
    once do it one after the other on PostgreSQL too: each counts what the other has committed.
    """

    def __init__(
        self, database: Database, connection: Connection, limits: Mapping[str, int], adding: Iterable[str]
    ) -> None:
        """``limits``: the most jobs that a tenant may have waiting, 0 for any number; ``adding``: the tenants
        whose jobs are about to be added."""
        limited = {tenant: limits[tenant] for tenant in set(adding) if limits.get(tenant)}
        advisory_locks.wait(database, connection, "submit", limited)
        self._limits = limited
        self._left = {tenant: limit - _count(connection, tenant, limit) for tenant, limit in limited.items()}

    def reserve(self, tenant: str, count: int = 1) -> OverLimit | None:
        """Count so many jobs of the tenant as waiting; where they would exceed its limit, count none and
        return the error."""
        left = self._left.get(tenant)
        if left is None:
            return None
        if left < count:
            limit = self._limits[tenant]
            return OverLimit(
                "queued",
                limit,
                f"tenant {tenant} may have {limit} jobs waiting, and there is room for {max(0, left)} more, "
                f"not {count}: wait until some have started, or cancel some",
                retry_after=_RETRY_AFTER,
            )
        self._left[tenant] = left - count
        return None

    def release(self, tenant: str) -> None:
        """Take back the last reservation of one job: it was not inserted."""
        if tenant in self._left:
            self._left[tenant] += 1


def _count(connection: Connection, tenant: str, limit: int) -> int:
    some = sa.select(sa.literal(1)).select_from(jobs).where(jobs.c.tenant == tenant, waiting).limit(limit)
    return connection.execute(sa.select(sa.func.count()).select_from(some.subquery())).scalar_one()
