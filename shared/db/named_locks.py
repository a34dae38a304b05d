"""Locks with a name, a holder and a time: for work that one process at a time does, as maintenance."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shared.db import dialects
from shared.db.engine import Database
from shared.db.tables import locks


class NamedLocks:
    def __init__(self, database: Database) -> None:
        self._database = database

    def try_lock(self, name: str, holder: str, seconds: float) -> bool:
        """Hold the lock for so many seconds; False while another holds it. Its holder may renew it.

        Raises Unavailable."""
        with self._database.write(durable=False) as connection:
            now = self._database.now(connection)
            taken = connection.execute(
                sa.update(locks)
                .where(locks.c.name == name, sa.or_(locks.c.until < now, locks.c.holder == holder))
                .values(holder=holder, until=now + seconds)
            ).rowcount
            if taken:
                return True
            new = {"name": name, "holder": holder, "until": now + seconds}
            return dialects.insert_if_missing(connection, locks, new)


def release_all(connection: Connection, holder: str) -> None:
    """Let go of every lock of a holder."""
    connection.execute(sa.delete(locks).where(locks.c.holder == holder))
