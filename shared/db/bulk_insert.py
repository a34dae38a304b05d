"""Inserts many rows in one statement.

The statement is text for the driver: SQLAlchemy would process each value of every row by itself, which takes
longer than the database takes for the row. PostgreSQL gets all rows as one JSON text, in one round trip:
psycopg's ``executemany`` polls for its answers without sleeping, which took a quarter of a worker's time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shared.json_text import to_json, to_json_list


def insert(connection: Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows that all have the same columns; values of JSON columns are given as Python values."""
    dialect = connection.dialect
    statement = _statement(dialect.name, table, tuple(rows[0]))
    if dialect.name == "postgresql":
        connection.exec_driver_sql(statement, {"rows": to_json_list(rows)})
    else:
        connection.exec_driver_sql(statement, [_as_text(table, row) for row in rows])


def _as_text(table: sa.Table, row: Mapping[str, Any]) -> dict[str, Any]:
    texts = {name: to_json(row[name]) for name in _json_columns(table) if row.get(name) is not None}
    return {**row, **texts}


@lru_cache(maxsize=16)
def _json_columns(table: sa.Table) -> tuple[str, ...]:
    return tuple(column.name for column in table.columns if isinstance(column.type, sa.JSON))


@lru_cache(maxsize=64)
def _statement(dialect: str, table: sa.Table, columns: tuple[str, ...]) -> str:
    unknown = set(columns) - set(table.columns.keys())
    if unknown:
        raise TypeError(f"{table.name} has no columns {sorted(unknown)}")
    names = ", ".join(f'"{name}"' for name in columns)
    if dialect == "postgresql":
        given = f"json_populate_recordset(CAST(NULL AS {table.name}), CAST(%(rows)s AS json))"
        return f"INSERT INTO {table.name} ({names}) SELECT {names} FROM {given}"
    return f"INSERT INTO {table.name} ({names}) VALUES ({', '.join(f':{name}' for name in columns)})"
