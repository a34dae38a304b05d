"""The one border where errors of the database's driver become ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine, ExceptionContext
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from shared.errors import Unavailable

_SQLITE_CANNOT_WRITE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
#: read_only_sql_transaction, disk_full
_POSTGRESQL_CANNOT_WRITE = ("25006", "53100")
#: PostgreSQL's: no right to a table, no such table, schema or database, damaged data, a damaged index
_REFUSED_STATES = ("42501", "42P01", "3F000", "3D000", "XX001", "XX002")


def drop_read_only_connections(engine: Engine, cannot_write: Callable[[Any], bool]) -> None:
    """Drop every pooled connection once one of them turns out to be read-only: by now the name may lead to
    another server, or to a file on another file system."""

    @event.listens_for(engine, "handle_error")
    def look(context: ExceptionContext) -> None:
        if cannot_write(context.original_exception):
            context.is_disconnect = True


def cannot_write_sqlite(error: Any) -> bool:
    """The file is read-only, or its disk is full or fails."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _SQLITE_CANNOT_WRITE


def cannot_write_postgresql(error: Any) -> bool:
    """The server takes no writes, as after a failover, or its disk is full."""
    return getattr(error, "sqlstate", None) in _POSTGRESQL_CANNOT_WRITE


@contextmanager
def translated() -> Iterator[None]:
    """Around a transaction: the driver's errors that no statement is to blame for are raised as
    Unavailable."""
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeout) as error:
        raise unavailable(error) from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise unavailable(error) from error
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


def unavailable(error: Exception) -> Unavailable:
    """The error to raise for one of the driver or of the pool, with the cure where it is known."""
    original = getattr(error, "orig", error)
    if cannot_write_sqlite(original):
        cure = "free some space where its file lies, and see that this process may write there"
        return Unavailable("the database cannot be written", f"{_first_line(error)}; {cure}")
    if cannot_write_postgresql(original):
        cure = "let QANVAS_DATABASE_URL lead to a server that takes writes and has room"
        return Unavailable("the database cannot be written", f"{_first_line(error)}; {cure}")
    return Unavailable("the database does not answer", _first_line(error))


def _first_line(error: Exception) -> str:
    return str(getattr(error, "orig", error)).partition("\n")[0]
