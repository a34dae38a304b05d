"""The database: transactions that read or write, its clock, and its migrations.

All times in the database are seconds since 1970 as floats, by the database's own clock, so that leases do
not depend on the clocks of workers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import ArgumentError

from shared.db import driver_errors, postgresql, revisions, sqlite
from shared.errors import ConfigurationError, Unavailable

#: seconds for which the difference between a server's clock and this machine's is used
_CLOCK_SECONDS = 1.0
_NOW = sa.text("SELECT extract(epoch FROM clock_timestamp())::float8")


class Database:
    """A pool of connections; ``read`` and ``write`` open one transaction each."""

    def __init__(self, url: str) -> None:
        self.url = _parsed(url)
        backend = self.url.get_backend_name()
        if backend not in ("sqlite", "postgresql"):
            raise ConfigurationError(
                f"database {backend!r} is not supported; use sqlite:/// or postgresql://"
            )
        self.dialect: Literal["sqlite", "postgresql"] = "sqlite" if backend == "sqlite" else "postgresql"
        self.engine = (sqlite if self.dialect == "sqlite" else postgresql).create_engine(self.url)
        #: whether the database is a process of its own. When it crashes alone, the transactions that it had
        #: not written to the disk are lost while workers go on; SQLite runs within the processes that use it,
        #: and loses nothing when one of them is killed
        self.is_server = self.dialect == "postgresql"
        self._writer = threading.Lock()
        #: when the server's clock was last read, by ``time.monotonic``, and its difference to that
        self._clock: tuple[float, float] | None = None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads. Raises Unavailable when the database does not answer."""
        with driver_errors.translated(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self, *, durable: bool = True, foreign_keys: bool = True) -> Iterator[Connection]:
        """A transaction that is committed at the end of the block, or rolled back by an exception.

        ``durable``: what it wrote survives a power cut, and the crash of a server. What a lease or
        maintenance would restore by itself need not wait for the disk. What a process acts upon must: give
        ``is_server``.
        ``foreign_keys``: False for migrations. SQLite alters a column by copying its table, and would delete
        all rows that refer to rows of the old one when that is dropped.
        """
        with driver_errors.translated(), self._turn(), self.engine.connect() as connection:
            connection.execution_options(qanvas_write="durable" if durable else "relaxed")
            with self._enforcing(connection, foreign_keys), connection.begin():
                yield connection

    @contextmanager
    def _enforcing(self, connection: Connection, foreign_keys: bool) -> Iterator[None]:
        """Switch SQLite's foreign keys off, which it allows between transactions only."""
        if foreign_keys or self.is_server:
            yield
            return
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.execute("PRAGMA foreign_keys = OFF")
        try:
            yield
        finally:
            driver.execute("PRAGMA foreign_keys = ON")

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """SQLite has one writer at a time, and a writer that finds another one must retry. The writers of
        this process wait here for each other instead."""
        if self.is_server:
            yield
            return
        if not self._writer.acquire(timeout=sqlite.BUSY_SECONDS):
            raise Unavailable(
                "the database does not answer", f"it was written to for {sqlite.BUSY_SECONDS:g} s"
            )
        try:
            yield
        finally:
            self._writer.release()

    def now(self, connection: Connection) -> float:
        """The database's clock, in seconds since 1970.

        SQLite's is this machine's. A server's is read once a second, not in each transaction: in between, it
        is computed from this process's monotonic clock and the difference of the two."""
        if self.dialect == "sqlite":
            return time.time()
        here, clock = time.monotonic(), self._clock
        if clock is None or here - clock[0] > _CLOCK_SECONDS:
            there = float(connection.execute(_NOW).scalar_one())
            here = time.monotonic()
            clock = self._clock = (here, there - here)
        return here + clock[1]

    def migrate(self) -> None:
        """Bring the tables to what this version needs; does nothing when they are there already.

        All of it is one transaction: a process that is killed in the middle has changed nothing.
        Raises ConfigurationError, and changes nothing, where the database cannot be used or is not ours."""
        with revisions.usable(self.url), self.write(foreign_keys=False) as connection:
            if self.dialect == "postgresql":  # two processes may start on an empty database at once
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(7205759403792793)"))
            revisions.upgrade(connection)

    def check_migrated(self) -> None:
        """Raises ConfigurationError when the tables are not this version's, or it cannot be used at all."""
        with revisions.usable(self.url), self.read() as connection:
            revisions.check(connection)

    def has_older_tables(self) -> bool:
        """Whether there are tables that ``migrate`` would change. Raises ConfigurationError as it does."""
        with revisions.usable(self.url), self.read() as connection:
            return revisions.is_older(connection)

    def dispose(self) -> None:
        """Close the pooled connections."""
        self.engine.dispose()


def _parsed(url: str) -> sa.URL:
    """The URL's parts. The message of what cannot be parsed leaves the URL out: it may hold a password."""
    try:
        return sa.make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigurationError(
            "QANVAS_DATABASE_URL is no database URL; expected postgresql://user:password@host:port/database "
            "or sqlite:////absolute/path, with special characters of the password percent-encoded"
        ) from None
