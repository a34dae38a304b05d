"""PostgreSQL databases that tests use one after another: emptying one takes a tenth of making one."""

from __future__ import annotations

from collections import deque

import sqlalchemy as sa

from shared.db.engine import Database
from shared.db.tables import metadata
from tests.servers import Postgres

#: rows that tests may have left in a database, one after another; more dead ones would show in plans
_MOST_LEFT = 500


class Databases:
    """Migrated and empty databases of one server.

    A test cannot meet what another left running: its connections are ended, and its database goes on under a
    new name, which succeeds only where nobody is connected any more."""

    def __init__(self, server: Postgres, template: str) -> None:
        self._server = server
        self._template = template
        self._idle: deque[str] = deque()
        #: by URL, how many rows were left in it so far
        self._left: dict[str, int] = {}

    def borrow(self) -> str:
        """The URL of an empty database."""
        # the one given back last is left alone: its connections may still be closing
        while len(self._idle) > 1:
            used = self._idle.popleft()
            left = self._left.pop(used)
            try:
                url = self._server.rename(used)
            except sa.exc.OperationalError:  # somebody reconnects to it time and again
                self._server.drop(used)
                continue
            found = _renewed(url)
            if found is not None and left + found <= _MOST_LEFT:
                self._left[url] = left + found
                return url
            self._server.drop(url)
        url = self._server.create(template=self._template)
        self._left[url] = 0
        return url

    def give_back(self, url: str) -> None:
        """End what is connected to it, and keep it for a later test."""
        name = sa.make_url(url).database
        self._server.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        )
        self._idle.append(url)


def _renewed(url: str) -> int | None:
    """Empty the database; how many rows were left. None where it was analyzed: its plans would show that."""
    known = "SELECT count(*) FROM pg_stat_user_tables NATURAL JOIN pg_class WHERE reltuples >= 0"
    database = Database(url)
    try:
        with database.read() as connection:
            if connection.exec_driver_sql(known).scalar_one():
                return None
        return emptied(database)
    finally:
        database.dispose()


def emptied(database: Database) -> int:
    """Delete all rows but the migrations' own; how many there were."""
    with database.write() as connection:
        tables = reversed(metadata.sorted_tables)
        return sum(connection.exec_driver_sql(f'DELETE FROM "{table.name}"').rowcount for table in tables)
