"""Files that new jobs read: there at the moment of the commit, and kept from then on.

Between the look that a submission's checks take and its commit, retention may remove a file whose time is
over. So the transaction that inserts a job holds all that its input names, and looks again. On PostgreSQL a
lock is held that any number of submissions share and that whoever would remove the file must wait for, or
pass over; SQLite has one writer at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shared.chunks import in_chunks
from shared.db.tables import files, outputs
from shared.errors import FieldError, InvalidInput
from shared.ids import is_id
from shared.jobs.entities import NewJob, Read
from shared.states import Status


def hold(
    connection: Connection,
    new: Sequence[NewJob],
    named: Iterable[Collection[str]],
    needed: Mapping[str, Row[Any]],
) -> list[InvalidInput | None]:
    """Hold the files and outputs that these jobs name; for each job what is wrong when one is gone.

    ``named``: what the input of each names, see ``references``; ``needed``: the jobs that they depend on,
    locked already."""
    ids = sorted({reference for own in named for reference in own})
    if not ids:
        return [None] * len(new)
    there = {row.id for row in _held(connection, files.c.id, [one for one in ids if is_id("file", one)])}
    for column, kind in ((outputs.c.id, "out"), (outputs.c.job_id, "job")):
        for row in _held(connection, column, [one for one in ids if one.startswith(f"{kind}_")]):
            there |= {row.id, (row.job_id, row.index)}
    return [_gone([read for read in job.reads if not _is_there(read, there, needed)]) for job in new]


def _held(connection: Connection, column: sa.Column[Any], ids: Sequence[str]) -> list[Row[Any]]:
    rows: list[Row[Any]] = []
    for some in in_chunks(ids):
        # in the order of the ids, as whoever removes them does it: two must not wait for each other
        query = sa.select(column.table).where(column.in_(some)).order_by(column.table.c.id)
        rows += connection.execute(query.with_for_update(read=True, key_share=True)).all()
    return rows


def _is_there(read: Read, there: set[Any], needed: Mapping[str, Row[Any]]) -> bool:
    if read.output is None:
        return read.reference in there
    job = needed.get(read.reference)
    # what has not ended has made nothing yet, and what is gone fails those that depend on it
    return job is None or job.status != Status.SUCCEEDED or (read.reference, read.output) in there


def _gone(reads: Sequence[Read]) -> InvalidInput | None:
    faults = [
        FieldError(
            read.pointer, f"{read.reference} was deleted, or its time was over; give one that is there"
        )
        for read in reads
    ]
    return InvalidInput(faults) if faults else None
