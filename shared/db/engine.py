"""Connections to PostgreSQL or SQLite, and the one border where the driver's errors become ours.

All times in the database are seconds since 1970 as floats, by the database's own clock, so that leases do
not depend on the clocks of workers.
"""

from __future__ import annotations

import math
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine, ExceptionContext
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry

from shared.db import revisions
from shared.errors import ConfigurationError, MissingExtra, Unavailable
from shared.json_text import to_json

#: seconds a SQLite writer waits for another before it gives up
BUSY_SECONDS = 15.0
#: seconds after which a SQLite writer asks again. SQLite itself waits ever longer, up to 100 ms: a process
#: whose threads write one after the other is always there first
_ASK_AGAIN_SECONDS = 0.0003

#: seconds for which a connection to a server is believed to hold, unasked, after it was used
_BELIEVED_SECONDS = 1.0
#: seconds for which the difference between a server's clock and this machine's is believed
_CLOCK_SECONDS = 1.0
#: libpq's own: a server that is gone without a word, as behind a firewall that forgot the connection, is
#: noticed within a minute (seconds, and milliseconds for what was sent)
_ALIVE = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
#: seconds after which a server ends a transaction whose process says nothing more, and lets go of its locks
IDLE_SECONDS = 15.0
#: a read-only file, a full disk, and a disk that fails
_SQLITE_CANNOT_WRITE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
#: a server that takes no writes, as after a failover, and one whose disk is full
_POSTGRESQL_CANNOT_WRITE = ("25006", "53100")
#: PostgreSQL's: no right to a table, no such table, schema or database, damaged data, a damaged index
_REFUSED_STATES = ("42501", "42P01", "3F000", "3D000", "XX001", "XX002")
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


def _sqlite(url: sa.URL) -> Engine:
    if url.database and url.database != ":memory:" and not url.database.startswith("file:"):
        folder = Path(url.database).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"cannot make the folder {folder} for the database: {error.strerror}; "
                "name another in QANVAS_DATA or QANVAS_DATABASE_URL"
            ) from None
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
        tables = {name for (name,) in cursor.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not revisions.is_foreign(tables):  # the mode is kept in the file: another program's stays as it is
            cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    _drop_where_nothing_can_be_written(engine, _cannot_write_sqlite)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        kind = connection.get_execution_options().get("qanvas_write")
        if kind is None:
            connection.exec_driver_sql("BEGIN")
            return
        if connection.info.get("synchronous") != kind:
            connection.exec_driver_sql(f"PRAGMA synchronous = {'FULL' if kind == 'durable' else 'NORMAL'}")
            connection.info["synchronous"] = kind
        try:
            _begin_writing(connection.connection.driver_connection)
        except sqlite3.OperationalError as error:
            connection.invalidate(error)
            raise _unavailable(error) from error

    return engine


def _begin_writing(driver: Any) -> None:
    """Begin a transaction as SQLite's one writer, after those of other processes.

    Raises Unavailable when they take too long, and sqlite3.OperationalError."""
    last = time.monotonic() + BUSY_SECONDS
    driver.execute("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                # IMMEDIATE: one that begins by reading and then writes would fail when another wrote between
                driver.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                if time.monotonic() > last:
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
            connect_args={"connect_timeout": 5, **_ALIVE},
        )
    except ModuleNotFoundError:
        raise MissingExtra("psycopg", "postgres") from None

    _drop_where_nothing_can_be_written(engine, _cannot_write_postgresql)

    @event.listens_for(engine, "connect")
    def bound(driver: Any, _record: Any) -> None:
        # a process that is stopped in the middle of a transaction must not keep its rows locked
        driver.execute(f"SET idle_in_transaction_session_timeout = {1000 * IDLE_SECONDS:.0f}")
        driver.commit()

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


def _drop_where_nothing_can_be_written(engine: Engine, cannot_write: Callable[[Any], bool]) -> None:
    """Let go of every pooled connection once one of them turns out to be read-only: behind a server's name
    there may be another server by now, and behind a file's another file system."""

    @event.listens_for(engine, "handle_error")
    def look(context: ExceptionContext) -> None:
        if cannot_write(context.original_exception):
            context.is_disconnect = True


def _cannot_write_sqlite(error: Any) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _SQLITE_CANNOT_WRITE


def _cannot_write_postgresql(error: Any) -> bool:
    return getattr(error, "sqlstate", None) in _POSTGRESQL_CANNOT_WRITE


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeout) as error:
        raise _unavailable(error) from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise _unavailable(error) from error
        if _is_broken(error.orig):
            raise Unavailable("the database cannot be used", _first_line(error)) from error
        raise
    except sqlite3.Error as error:  # from where a transaction begins, which SQLAlchemy does not wrap
        raise Unavailable("the database cannot be used", str(error)) from error


def _is_broken(error: BaseException | None) -> bool:
    """Whether the database is damaged, or refuses this user its tables: no statement is to blame."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    return getattr(error, "sqlstate", None) in _REFUSED_STATES


def _unavailable(error: Exception) -> Unavailable:
    original = getattr(error, "orig", error)
    if _cannot_write_sqlite(original):
        cure = "free some space where its file lies, and see that this process may write there"
        return Unavailable("the database cannot be written", f"{_first_line(error)}; {cure}")
    if _cannot_write_postgresql(original):
        cure = "let QANVAS_DATABASE_URL lead to a server that takes writes and has room"
        return Unavailable("the database cannot be written", f"{_first_line(error)}; {cure}")
    return Unavailable("the database does not answer", _first_line(error))


def _first_line(error: Exception) -> str:
    return str(getattr(error, "orig", error)).partition("\n")[0]
