"""Transactions that count something of a tenant and then add to it: one at a time, so that each counts what
the others have committed. SQLite has one writer anyway; PostgreSQL locks a name to the transaction's end."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import Connection

from shared.db.engine import Database

What = Literal["submit", "run"]

#: the first half of a lock's name; the second is the tenant's
_KINDS: dict[What, int] = {"submit": 0x71_61, "run": 0x71_62}
_names = sa.func.unnest(sa.bindparam("names", type_=ARRAY(sa.Integer))).column_valued("name")
_kind: sa.BindParameter[int] = sa.bindparam("kind", type_=sa.Integer)
_WAIT = sa.select(sa.func.pg_advisory_xact_lock(_kind, _names))
_TRY = sa.select(_names, sa.func.pg_try_advisory_xact_lock(_kind, _names))


def wait(database: Database, connection: Connection, what: What, tenants: Collection[str]) -> None:
    """Wait until no other transaction does the same for one of these tenants; call it once in each."""
    if database.dialect == "postgresql" and tenants:
        names = sorted({_name(tenant) for tenant in tenants})  # in one order, lest two wait for each other
        connection.execute(_WAIT, {"kind": _KINDS[what], "names": names}).all()


def try_(database: Database, connection: Connection, what: What, tenants: Collection[str]) -> set[str]:
    """Those of the tenants for whom no other transaction does the same; waits for nobody."""
    if database.dialect != "postgresql" or not tenants:
        return set(tenants)
    given = {"kind": _KINDS[what], "names": sorted({_name(tenant) for tenant in tenants})}
    free = {name for name, locked in connection.execute(_TRY, given) if locked}
    return {tenant for tenant in tenants if _name(tenant) in free}


def _name(tenant: str) -> int:
    """32 bits with a sign, as PostgreSQL wants them; tenants that share a name wait for each other."""
    return int.from_bytes(hashlib.sha256(tenant.encode()).digest()[:4], "big", signed=True)
