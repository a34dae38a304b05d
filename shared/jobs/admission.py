"""How many more jobs a tenant may have waiting, decided in the transaction that adds them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shared.database import Database
from shared.errors import OverLimit
from shared.jobs.states import Status
from shared.jobs.tables import jobs, status_in

#: the first half of an advisory lock's name; the second is the tenant's
_LOCK = 0x71_61
#: seconds after which a place may have become free
_AGAIN = 5

_waiting = status_in(Status.QUEUED, Status.SCHEDULED)


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
        if database.dialect == "postgresql" and limited:
            for name in sorted(map(_lock_name, limited)):  # in one order, lest two wait for each other
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK, name)))
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
    some = sa.select(sa.literal(1)).select_from(jobs).where(jobs.c.tenant == tenant, _waiting).limit(most)
    return connection.execute(sa.select(sa.func.count()).select_from(some.subquery())).scalar_one()


def _lock_name(tenant: str) -> int:
    """32 bits with a sign, as PostgreSQL wants them; tenants that share a name wait for each other."""
    return int.from_bytes(hashlib.sha256(tenant.encode()).digest()[:4], "big", signed=True)
