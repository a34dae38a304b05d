"""What a tenant may use: the settings' limits, and over them what the operator set for it alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa

from shared.accounts.keys import check_tenant
from shared.db.engine import Database
from shared.db.tables import attempts, deliveries, files, jobs, outputs, tenants
from shared.errors import InvalidInput, NotFound
from shared.jobs import sizes
from shared.settings import Settings
from shared.ttl_cache import TtlCache

#: the largest limit; PostgreSQL's Integer ends there, and no server gets near
MAX_LIMIT = 2**31 - 1
MAX_BYTES = 2**63 - 1
#: between these, start tags keep their precision, and no tenant waits for ever
MIN_WEIGHT, MAX_WEIGHT = 0.01, 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """0 is no limit."""

    #: requests a minute, for each key
    requests: int = 0
    #: jobs submitted in a minute, for each key
    submissions: int = 0
    #: jobs that are queued or scheduled
    queued: int = 0
    #: jobs that run at once
    running: int = 0
    #: bytes of uploaded files and of outputs, and of jobs in the database
    storage_bytes: int = 0


NAMES: tuple[str, ...] = tuple(field.name for field in fields(Limits))
#: what can be set for a tenant: its limits, and its weight among others, see ``fair_queueing``
SETTABLE: tuple[str, ...] = (*NAMES, "weight")


class Tenants:
    """The limits of every tenant, as they were at most a second ago."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._default = Limits(**{name: getattr(settings, f"limit_{name}") for name in NAMES})
        self._own: TtlCache[Mapping[str, Limits]] = TtlCache(self._look_up)

    def limits(self, tenant: str) -> Limits:
        """Raises Unavailable when they are not known and the database is away."""
        return self._own().get(tenant, self._default)

    def running_limit(self, tenant: str) -> int:
        """How many jobs of the tenant may run at once, 0 for any number. Raises Unavailable."""
        return self.limits(tenant).running

    def set(self, tenant: str, changes: Mapping[str, float]) -> None:
        """Set some limits of a tenant, or its weight; the others stay. Raises InvalidInput."""
        check_tenant(tenant)
        for name, value in changes.items():
            _check(name, value)
        with self._database.write() as connection:
            known = tenants.c.name == tenant
            if connection.execute(sa.select(tenants.c.name).where(known)).first() is None:
                connection.execute(sa.insert(tenants).values(name=tenant))
            if changes:
                connection.execute(sa.update(tenants).where(known).values(**changes))
        self._own.forget()

    def reset(self, tenant: str) -> None:
        """Let the settings' limits and weight 1 hold for the tenant again. Raises NotFound where they do."""
        with self._database.write() as connection:
            gone = connection.execute(sa.delete(tenants).where(tenants.c.name == tenant)).rowcount
        self._own.forget()
        if not gone:
            raise NotFound("limits of tenant", tenant)

    def list(self) -> list[tuple[str, dict[str, Any]]]:
        """The tenants with something of their own, by name; None where the settings' limit holds."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(tenants).order_by(tenants.c.name)).all()
        return [(row.name, {name: getattr(row, name) for name in SETTABLE}) for row in rows]

    def stored_bytes(self, tenant: str) -> int:
        """Bytes of the tenant's files and outputs, and of what its jobs, their attempts and webhooks hold in
        the database; takes as long as it has rows."""
        dialect = self._database.dialect
        of_jobs = sa.select(sizes.stored_bytes(dialect, *sizes.WRITTEN, jobs.c.traceback).label("bytes"))
        of_attempts = sizes.stored_bytes(dialect, attempts.c.error, attempts.c.traceback)
        of_deliveries = sizes.stored_bytes(dialect, deliveries.c.body)
        mine = jobs.c.tenant == tenant
        parts = (
            sa.select(files.c.bytes).where(files.c.tenant == tenant),
            sa.select(outputs.c.bytes).join(jobs, jobs.c.id == outputs.c.job_id).where(mine),
            of_jobs.where(mine),
            sa.select(of_attempts.label("bytes")).join(jobs, jobs.c.id == attempts.c.job_id).where(mine),
            sa.select(of_deliveries.label("bytes")).join(jobs, jobs.c.id == deliveries.c.job_id).where(mine),
        )
        with self._database.read() as connection:
            return sum(int(connection.execute(_sum(part)).scalar_one()) for part in parts)

    def _look_up(self) -> Mapping[str, Limits]:
        return {tenant: self._over_default(own) for tenant, own in self.list()}

    def _over_default(self, own: Mapping[str, Any]) -> Limits:
        return Limits(
            **{name: getattr(self._default, name) if own[name] is None else own[name] for name in NAMES}
        )


def _sum(part: sa.Select[Any]) -> sa.Select[Any]:
    return sa.select(sa.func.coalesce(sa.func.sum(part.subquery().c.bytes), 0))


def _check(name: str, value: float) -> None:
    if name == "weight":
        if not MIN_WEIGHT <= value <= MAX_WEIGHT:
            raise InvalidInput.at("/weight", f"must be a number from {MIN_WEIGHT} to {MAX_WEIGHT:g}")
        return
    limit = MAX_BYTES if name == "storage_bytes" else MAX_LIMIT
    if name not in NAMES or not 0 <= value <= limit:
        raise InvalidInput.at(f"/{name}", f"must be 0 for none, or a number up to {limit}")
