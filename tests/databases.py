"""PostgreSQL databases that tests use one after another: emptying one takes a tenth of making one."""

from __future__ import annotations

from collections import deque

import sqlalchemy as sa

from shared.database import Database
from shared.jobs.tables import metadata
from tests.servers import Postgres

#: rows; where more were left, the dead ones would show in the next test's plans
_MOST_LEFT = 500


class Databases:
    """Migrated and empty databases of one server.

    A test cannot meet what another left running: its connections are ended, and its database goes on under a
    new name, which succeeds only where nobody is connected any more."""

    def __init__(self, server: Postgres, template: str) -> None:
        self._server = server
        self._template = template
        self._idle: deque[str] = deque()

    def borrow(self) -> str:
        """The URL of an empty database."""
        # the one given back last is left alone: its connections may still be closing
        while len(self._idle) > 1:
            used = self._idle.popleft()
            try:
                url = self._server.rename(used)
            except sa.exc.OperationalError:  # somebody reconnects to it time and again
                self._server.drop(used)
                continue
            if _is_as_new(url):
                return url
            self._server.drop(url)
        return self._server.create(template=self._template)

    def give_back(self, url: str) -> None:
        """End what is connected to it, and keep it for a later test."""
        name = sa.make_url(url).database
        self._server.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        )
        self._idle.append(url)


def _is_as_new(url: str) -> bool:
    """Whether the database, emptied by now, will plan statements as a new one does."""
    database = Database(url)
    try:
        known = "SELECT count(*) FROM pg_stat_user_tables NATURAL JOIN pg_class WHERE reltuples >= 0"
        with database.read() as connection:
            was_analyzed = connection.exec_driver_sql(known).scalar_one() > 0
        return emptied(database) <= _MOST_LEFT and not was_analyzed
    finally:
        database.dispose()


def emptied(database: Database) -> int:
    """Delete all rows but the migrations' own; how many there were."""
    with database.write() as connection:
        tables = reversed(metadata.sorted_tables)
        return sum(connection.exec_driver_sql(f'DELETE FROM "{table.name}"').rowcount for table in tables)
