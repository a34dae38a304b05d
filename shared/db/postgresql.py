"""Connections to PostgreSQL."""

from __future__ import annotations

import math
import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry

from shared.db import driver_errors
from shared.errors import MissingExtra
from shared.json_text import to_json

#: seconds after which the server ends a transaction whose process is silent, and releases its locks
IDLE_SECONDS = 15.0
#: seconds after its last use for which a connection is taken without a ping
_TRUSTED_SECONDS = 1.0
#: libpq's settings: a server that is gone without a word, as behind a firewall that forgot the connection, is
#: noticed within a minute (seconds, and milliseconds for ``tcp_user_timeout``)
_KEEPALIVE = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


def create_engine(url: sa.URL) -> Engine:
    """A pool of connections to the server. Raises MissingExtra without its driver."""
    try:
        engine = sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            json_serializer=to_json,
            pool_size=16,
            max_overflow=64,
            connect_args={"connect_timeout": 5, **_KEEPALIVE},
        )
    except ModuleNotFoundError:
        raise MissingExtra("psycopg", "postgres") from None

    driver_errors.drop_read_only_connections(engine, driver_errors.cannot_write_postgresql)

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
        # a restarted server must not fail the first request of each connection; a connection that was used a
        # moment ago is trusted, since a ping costs as much as a statement
        if time.monotonic() - record.info.get("used", math.inf) > _TRUSTED_SECONDS:
            try:
                engine.dialect.do_ping(driver)
            except engine.dialect.loaded_dbapi.Error as error:
                raise InvalidatePoolError(str(error)) from error

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get("qanvas_write") == "relaxed":
            connection.exec_driver_sql("SET LOCAL synchronous_commit = off")

    return engine
