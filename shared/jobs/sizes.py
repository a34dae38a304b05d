"""What rows take: in an answer, which ends where it would grow too large, and in a tenant's quota."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shared.db import dialects
from shared.db.tables import attempts, jobs

#: bytes of JSON after which a page of rows ends, though there may be more; one row is always on it
MAX_PAGE_BYTES = 4 << 20
#: bytes of an attempt in an answer besides what it says went wrong
_ATTEMPT = 300

#: what clients and workers write into a row of ``jobs``
WRITTEN = (jobs.c.input, jobs.c.metadata, jobs.c.result, jobs.c.error)


def text_bytes(dialect: str, *columns: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    """The bytes of these columns as text, together."""
    return _sum([dialects.text_bytes(dialect, column) for column in columns])


def stored_bytes(dialect: str, *columns: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    """The bytes that these columns take in the database, together."""
    return _sum([dialects.stored_bytes(dialect, column) for column in columns])


def _sum(sizes: Sequence[sa.ColumnElement[Any]]) -> sa.ColumnElement[int]:
    total: sa.ColumnElement[int] = sa.literal(0)
    for size in sizes:
        total = total + sa.func.coalesce(size, 0)
    return total


def attempts_bytes(dialect: str) -> sa.ColumnElement[int]:
    """The bytes that the attempts of a row of ``jobs`` take in an answer."""
    each = text_bytes(dialect, attempts.c.error, attempts.c.traceback) + _ATTEMPT
    of_job = sa.select(sa.func.sum(each)).where(attempts.c.job_id == jobs.c.id)
    return sa.func.coalesce(of_job.scalar_subquery(), 0)


def page(
    connection: Connection,
    where: Sequence[sa.ColumnElement[bool]],
    size: sa.ColumnElement[int],
    limit: int,
) -> tuple[list[Row[Any]], str | None]:
    """The newest jobs of those, up to ``limit`` and as far as their sizes fit an answer; and the id that the
    next page begins after, None where there is none.

    Sizes are asked for first: a page of large rows shall not be read to be thrown away."""
    look = sa.select(jobs.c.id, size.label("size")).where(*where).order_by(jobs.c.id.desc()).limit(limit + 1)
    found = connection.execute(look).all()
    ids: list[str] = []
    total = 0
    for row in found[:limit]:
        total += row.size
        if ids and total > MAX_PAGE_BYTES:
            break
        ids.append(row.id)
    query = sa.select(jobs).where(jobs.c.id.in_(ids)).order_by(jobs.c.id.desc())
    rows = list(connection.execute(query)) if ids else []
    return rows, ids[-1] if ids and len(found) > len(ids) else None
