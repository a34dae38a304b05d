"""New rows of ``jobs`` in one statement, however many a group commit brings.

Spelled for the driver, since SQLAlchemy would process each of some twenty-five values of every row by itself,
for longer than the database takes for the row. PostgreSQL gets all rows as one text, in one round trip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shared.compact import to_json
from shared.jobs.tables import jobs

_JSON = tuple(column.name for column in jobs.columns if isinstance(column.type, sa.JSON))


def insert(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows that all have the same columns; those of JSON are plain values."""
    dialect = connection.dialect
    statement = _statement(dialect.name, tuple(rows[0]))
    if dialect.name == "postgresql":
        connection.exec_driver_sql(statement, {"rows": to_json(rows)})
    else:
        connection.exec_driver_sql(statement, [_as_text(row) for row in rows])


def _as_text(row: Mapping[str, Any]) -> dict[str, Any]:
    texts = {name: to_json(row[name]) for name in _JSON if row.get(name) is not None}
    return {**row, **texts}


@lru_cache(maxsize=16)
def _statement(dialect: str, columns: tuple[str, ...]) -> str:
    unknown = set(columns) - set(jobs.columns.keys())
    if unknown:
        raise TypeError(f"jobs has no columns {sorted(unknown)}")
    names = ", ".join(f'"{name}"' for name in columns)
    if dialect == "postgresql":
        given = "json_populate_recordset(CAST(NULL AS jobs), CAST(%(rows)s AS json))"
        return f"INSERT INTO jobs ({names}) SELECT {names} FROM {given}"
    return f"INSERT INTO jobs ({names}) VALUES ({', '.join(f':{name}' for name in columns)})"
