"""Connections to PostgreSQL or SQLite, and the one border where the driver's errors become ours.

All times in the database are seconds since 1970 as floats, by the database's own clock, so that leases do
not depend on the clocks of workers.
"""

from __future__ import annotations

import math
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry

from shared.compact import to_json
from shared.errors import ConfigurationError, MissingExtra, Unavailable

#: seconds a SQLite writer waits for another before it gives up
BUSY_SECONDS = 15.0
#: seconds after which a SQLite writer asks again. SQLite itself waits ever longer, up to 100 ms: a process
#: whose threads write one after the other is always there first
_ASK_AGAIN_SECONDS = 0.0003

#: seconds for which a connection to a server is believed to hold, unasked, after it was used
_BELIEVED_SECONDS = 1.0
#: seconds for which the difference between a server's clock and this machine's is believed
_CLOCK_SECONDS = 1.0
_MIGRATIONS = Path(__file__).parent / "jobs" / "migrations"
_NOW = sa.text("SELECT extract(epoch FROM clock_timestamp())::float8")


class Database:
    """A pool of connections; ``read`` and ``write`` open one transaction each."""

    def __init__(self, url: str) -> None:
        self.url = sa.make_url(url)
        backend = self.url.get_backend_name()
        if backend not in ("sqlite", "postgresql"):
            raise ConfigurationError(
                f"database {backend!r} is not supported; use sqlite:/// or postgresql://"
            )
        self.dialect: Literal["sqlite", "postgresql"] = "sqlite" if backend == "sqlite" else "postgresql"
        self.engine = _sqlite(self.url) if self.dialect == "sqlite" else _postgresql(self.url)
        #: it may crash alone: workers go on with what it forgot. SQLite goes down with all that use it, and a
        #: killed process loses nothing
        self.is_server = self.dialect == "postgresql"
        self._writer = threading.Lock()
        #: when the server's clock was asked, by ``time.monotonic``, and what it said beyond that
        self._clock: tuple[float, float] | None = None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads. Raises Unavailable when the database does not answer."""
        with _translated(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self, *, durable: bool = True, foreign_keys: bool = True) -> Iterator[Connection]:
        """A transaction that is committed at the end of the block, or rolled back by an exception.

        ``durable``: what it wrote survives a power cut, and the crash of a server. What a lease or upkeep
        would restore by itself need not wait for the disk. What somebody acts upon must (``is_server``).
        ``foreign_keys``: False for migrations. SQLite alters a column by copying its table, and would delete
        all rows that refer to rows of the old one when that is dropped.
        """
        with _translated(), self._turn(), self.engine.connect() as connection:
            connection.execution_options(qanvas_write="durable" if durable else "relaxed")
            with self._enforcing(connection, foreign_keys), connection.begin():
                yield connection

    @contextmanager
    def _enforcing(self, connection: Connection, foreign_keys: bool) -> Iterator[None]:
        """SQLite heeds this between transactions only."""
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
        """SQLite has one writer at a time, and one that finds another must ask again. Those of one process
        wait for each other instead."""
        if self.is_server:
            yield
            return
        if not self._writer.acquire(timeout=BUSY_SECONDS):
            raise Unavailable("the database does not answer", f"it was written to for {BUSY_SECONDS:g} s")
        try:
            yield
        finally:
            self._writer.release()

    def now(self, connection: Connection) -> float:
        """The database's clock, in seconds since 1970.

        SQLite's is this machine's. A server is asked once a second, not in each transaction: in between, its
        clock is this process's steady one and their difference."""
        if self.dialect == "sqlite":
            return time.time()
        here, clock = time.monotonic(), self._clock
        if clock is None or here - clock[0] > _CLOCK_SECONDS:
            there = float(connection.execute(_NOW).scalar_one())
            here = time.monotonic()
            clock = self._clock = (here, there - here)
        return here + clock[1]

    def ping(self) -> None:
        """Raises Unavailable when the database does not answer."""
        with self.read() as connection:
            connection.execute(sa.text("SELECT 1"))

    def migrate(self) -> None:
        """Bring the tables to what this version needs; does nothing when they are there already.

        All of it is one transaction: a process that is killed in the middle has changed nothing.
        Raises ConfigurationError when the tables are a later version's."""
        from alembic import command

        with self.write(foreign_keys=False) as connection:
            if self.dialect == "postgresql":  # two processes may start on an empty database at once
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(7205759403792793)"))
            self._revision(connection)
            command.upgrade(_alembic(connection), "head")

    def check_migrated(self) -> None:
        """Raises ConfigurationError when the tables are older or newer than this version needs."""
        with self.read() as connection:
            found, wanted = self._revision(connection)
        if found != wanted:
            raise ConfigurationError(
                f"the database is at revision {found or 'none'}, this version needs {wanted}; "
                "run: qanvas migrate"
            )

    def has_older_tables(self) -> bool:
        """Whether there are tables that ``migrate`` would change. Raises ConfigurationError for newer."""
        with self.read() as connection:
            found, wanted = self._revision(connection)
        return found not in (None, wanted)

    def _revision(self, connection: Connection) -> tuple[str | None, str | None]:
        """The revision that the tables are at, None where there are none, and that which this version needs.

        Raises ConfigurationError for one that this version does not know: a later version's."""
        from alembic.runtime.migration import MigrationContext
        from alembic.script import ScriptDirectory

        found = MigrationContext.configure(connection).get_current_revision()
        known = ScriptDirectory.from_config(_alembic(connection))
        wanted = known.get_current_head()
        if found is not None and found not in {script.revision for script in known.walk_revisions()}:
            raise ConfigurationError(
                f"the database is at revision {found}, this version knows revisions up to {wanted}: a later "
                "version has migrated it; run that one or a later one, or restore the backup from before"
            )
        return found, wanted

    def dispose(self) -> None:
        """Close the pooled connections."""
        self.engine.dispose()


def _alembic(connection: Connection) -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def _sqlite(url: sa.URL) -> Engine:
    if url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(
        url,
        json_serializer=to_json,
        pool_size=16,
        max_overflow=64,
        pool_use_lifo=True,  # the connection that was used last still has the database's pages
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        kind = connection.get_execution_options().get("qanvas_write")
        if kind is None:
            connection.exec_driver_sql("BEGIN")
            return
        if connection.info.get("synchronous") != kind:
            connection.exec_driver_sql(f"PRAGMA synchronous = {'FULL' if kind == 'durable' else 'NORMAL'}")
            connection.info["synchronous"] = kind
        _begin_writing(connection.connection.driver_connection)

    return engine


def _begin_writing(driver: Any) -> None:
    """Begin a transaction as SQLite's one writer, after those of other processes. Raises Unavailable."""
    last = time.monotonic() + BUSY_SECONDS
    driver.execute("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                # IMMEDIATE: one that begins by reading and then writes would fail when another wrote between
                driver.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or time.monotonic() > last:
                    raise Unavailable("the database does not answer", str(error)) from error
            time.sleep(_ASK_AGAIN_SECONDS)
    finally:
        driver.execute(f"PRAGMA busy_timeout = {1000 * BUSY_SECONDS:.0f}")


def _postgresql(url: sa.URL) -> Engine:
    try:
        engine = sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            json_serializer=to_json,
            pool_size=16,
            max_overflow=64,
            connect_args={"connect_timeout": 5},
        )
    except ModuleNotFoundError:
        raise MissingExtra("psycopg", "postgres") from None

    @event.listens_for(engine, "checkin")
    def put_back(_driver: Any, record: ConnectionPoolEntry) -> None:
        record.info["used"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def take(driver: Any, record: ConnectionPoolEntry, _: Any) -> None:
        # a restarted server must not fail the first request of each connection; one that has just been used
        # is believed, since asking costs as much as a statement
        if time.monotonic() - record.info.get("used", math.inf) > _BELIEVED_SECONDS:
            try:
                engine.dialect.do_ping(driver)
            except engine.dialect.loaded_dbapi.Error as error:
                raise InvalidatePoolError(str(error)) from error

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get("qanvas_write") == "relaxed":
            connection.exec_driver_sql("SET LOCAL synchronous_commit = off")

    return engine


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeout) as error:
        raise Unavailable("the database does not answer", _first_line(error)) from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise Unavailable("the database went away", _first_line(error)) from error
        raise


def _first_line(error: Exception) -> str:
    return str(getattr(error, "orig", error)).partition("\n")[0]
