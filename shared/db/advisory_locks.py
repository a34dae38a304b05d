"""Locks of a tenant's name for transactions that count something of the tenant and then add to it.

Such transactions run one at a time, so that each counts what the others have committed. SQLite has one writer
anyway; PostgreSQL takes an advisory lock, which it releases at the end of the transaction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import Connection

from shared.db.engine import Database

#: what the transactions do: submit jobs, or start them
Purpose = Literal["submit", "run"]

#: the first half of a lock's name; the second is the tenant's
_KINDS: dict[Purpose, int] = {"submit": 0x71_61, "run": 0x71_62}
_names = sa.func.unnest(sa.bindparam("names", type_=ARRAY(sa.Integer))).column_valued("name")
_kind: sa.BindParameter[int] = sa.bindparam("kind", type_=sa.Integer)
_WAIT = sa.select(sa.func.pg_advisory_xact_lock(_kind, _names))
_TRY = sa.select(_names, sa.func.pg_try_advisory_xact_lock(_kind, _names))


def wait(database: Database, connection: Connection, purpose: Purpose, tenants: Collection[str]) -> None:
    """Wait until no other transaction with this purpose holds the lock of one of these tenants.

    Call it once in each transaction: two that lock one tenant after the other may deadlock."""
    if database.dialect == "postgresql" and tenants:
        names = sorted({_name(tenant) for tenant in tenants})  # in one order: two must not deadlock
        connection.execute(_WAIT, {"kind": _KINDS[purpose], "names": names}).all()


def try_(database: Database, connection: Connection, purpose: Purpose, tenants: Collection[str]) -> set[str]:
    """Lock what is free at this moment; the tenants that were locked."""
    if database.dialect != "postgresql" or not tenants:
        return set(tenants)
    given = {"kind": _KINDS[purpose], "names": sorted({_name(tenant) for tenant in tenants})}
    free = {name for name, locked in connection.execute(_TRY, given) if locked}
    return {tenant for tenant in tenants if _name(tenant) in free}


def _name(tenant: str) -> int:
    """32 bits with a sign, as PostgreSQL wants them; tenants that share a name wait for each other."""
    return int.from_bytes(hashlib.sha256(tenant.encode()).digest()[:4], "big", signed=True)
