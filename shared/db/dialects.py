"""What PostgreSQL and SQLite spell differently, for statements of SQLAlchemy Core.

Transactions, durability and the clock are in ``engine``, advisory locks in ``advisory_locks``, inserts of
many rows in ``bulk_insert``. A dialect is given as SQLAlchemy names it: ``postgresql`` or ``sqlite``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

#: an INSERT that knows ON CONFLICT
Insert = postgresql.Insert | sqlite.Insert

Rows = TypeVar("Rows", bound=sa.Select[Any])


def insert(dialect: str, table: sa.Table) -> Insert:
    """An INSERT of the dialect's own, which has ``on_conflict_do_nothing`` and ``on_conflict_do_update``."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


def insert_if_missing(connection: Connection, table: sa.Table, row: Mapping[str, Any]) -> bool:
    """Insert a row; False where another row has one of its unique keys: that one stays as it is."""
    new = insert(connection.dialect.name, table).on_conflict_do_nothing().returning(*table.primary_key)
    return connection.execute(new, dict(row)).first() is not None


def upsert(
    connection: Connection,
    table: sa.Table,
    key: Mapping[str, Any],
    values: Mapping[str, Any],
    **on_insert: Any,
) -> None:
    """Insert the row with this primary key, or update its ``values``; ``on_insert`` are not updated."""
    new = insert(connection.dialect.name, table).values(**key, **values, **on_insert)
    connection.execute(new.on_conflict_do_update(index_elements=list(key), set_=dict(values)))


def skip_locked(dialect: str, rows: Rows) -> Rows:
    """The query, locking its rows and passing over those that another transaction has locked.

    SQLite has one writer at a time and no locks of rows: there it is the query itself."""
    return rows.with_for_update(skip_locked=True) if dialect == "postgresql" else rows


def in_array(column: sa.ColumnElement[Any], rows: sa.Select[Any]) -> sa.ColumnElement[bool]:
    """On PostgreSQL: the column is one of the values that the query finds and locks.

    The query runs once: as an array, not as a mere subquery, into which a planner may look again for each
    row, and would lock more rows than the query's limit."""
    return column == sa.any_(sa.func.array(rows.scalar_subquery()))


def only_unlocked(
    dialect: str, column: sa.ColumnElement[Any], *where: sa.ColumnElement[bool]
) -> sa.ColumnElement[bool]:
    """For an UPDATE: the conditions hold, and no other transaction has locked the row; ``column`` tells rows
    apart. Locked rows are passed over, not waited for."""
    if dialect == "postgresql":
        return in_array(column, skip_locked(dialect, sa.select(column).where(*where)))
    return sa.and_(*where)


def lock_rows(connection: Connection, column: sa.ColumnElement[str], ids: Sequence[str]) -> None:
    """Lock the rows with these ids in the order of the ids, so that two writers of many rows cannot deadlock.

    SQLite has one writer at a time and needs none of this."""
    if connection.dialect.name == "postgresql":
        connection.execute(_lock(column), {"ids": list(ids)})


@cache
def _lock(column: sa.ColumnElement[str]) -> sa.Executable:
    given: sa.BindParameter[Any] = sa.bindparam("ids", type_=postgresql.ARRAY(sa.String))
    return sa.select(column).where(column == sa.any_(given)).order_by(column).with_for_update()


def driver_text(dialect: str, statement: sa.ClauseElement) -> str:
    """The statement as text for ``exec_driver_sql``, with the driver's form of named parameters."""
    spoken, style = (postgresql, "pyformat") if dialect == "postgresql" else (sqlite, "named")
    return str(statement.compile(dialect=spoken.dialect(paramstyle=style)))


def text_bytes(dialect: str, column: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    """The bytes of a column as text, in UTF-8; null where the column is."""
    if dialect == "postgresql":
        return sa.func.octet_length(sa.cast(column, sa.Text))
    return sa.func.length(sa.cast(column, sa.LargeBinary))


def stored_bytes(dialect: str, column: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    """The bytes that a column takes on the disk, where PostgreSQL compresses long values; null where the
    column is."""
    return sa.func.pg_column_size(column) if dialect == "postgresql" else text_bytes(dialect, column)
