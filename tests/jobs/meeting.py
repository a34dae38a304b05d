"""Transactions of two connections that meet at a chosen statement."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy import event

from shared.db.engine import Database
from tests.servers import wait_until

Answer = TypeVar("Answer")

_WAITING = sa.text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


def started(work: Callable[[], Answer]) -> Future[Answer]:
    """``work`` on a thread of its own."""
    result: Future[Answer] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:  # noqa: BLE001 - the test shall see it, whatever it is
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return result


def waiting(database: Database) -> int:
    """Connections to a PostgreSQL database that wait for a lock."""
    with database.engine.connect() as connection:
        return int(connection.execute(_WAITING).scalar_one())


def pause(database: Database, statement: str, until: Callable[[], object], *, nth: int = 1) -> None:
    """Let this pool's nth statement that begins so wait for something."""
    met: list[str] = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def hold(_c: object, _cursor: object, text: str, *_: object) -> None:
        if text.startswith(statement):
            met.append(text)
            if len(met) == nth:
                wait_until(until, what=f"what {statement} shall meet")
