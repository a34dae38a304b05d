"""Connections to SQLite: in WAL mode, with one writer at a time."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

from shared.db import driver_errors, revisions
from shared.errors import ConfigurationError, Unavailable
from shared.json_text import to_json

#: seconds that a writer waits for another before it gives up
BUSY_SECONDS = 15.0
#: seconds after which a waiting writer tries again. SQLite itself waits ever longer, up to 100 ms: a process
#: whose threads write one after the other would always be first
_RETRY_SECONDS = 0.0003


def create_engine(url: sa.URL) -> Engine:
    """A pool of connections to the file; makes its folder. Raises ConfigurationError."""
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

    driver_errors.drop_read_only_connections(engine, driver_errors.cannot_write_sqlite)

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
            begin_writing(connection.connection.driver_connection)
        except sqlite3.OperationalError as error:
            connection.invalidate(error)
            raise driver_errors.unavailable(error) from error

    return engine


def begin_writing(driver: Any) -> None:
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
            time.sleep(_RETRY_SECONDS)
    finally:
        driver.execute(f"PRAGMA busy_timeout = {1000 * BUSY_SECONDS:.0f}")
