"""Files that new jobs read: there at the moment of the commit, and kept from then on.

Between the look that a submission's checks take and its commit, retention may remove a file whose time is
over. So the transaction that inserts a job holds all that its input names, and looks again. On PostgreSQL a
lock is held that any number of submissions share and that whoever would remove the file must wait for, or
pass over; SQLite has one writer at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shared.chunks import in_chunks
from shared.db.tables import files, outputs
from shared.errors import FieldError, InvalidInput
from shared.ids import is_id


@dataclass(frozen=True, slots=True)
class Read:
    """A place of an input that is a stored file: ``reference`` is the id of a file or of an output, or that
    of a job, whose ``output`` of this number it is."""

    pointer: str
    reference: str
    output: int | None = None


def hold(
    connection: Connection,
    reads: Sequence[Sequence[Read]],
    named: Iterable[Collection[str]],
    succeeded: Collection[str],
) -> list[InvalidInput | None]:
    """Lock the files and outputs that new jobs name; for each job its fault where one of them is gone, or
    None.

    ``reads``: for each job the places of its input that must be there; ``named``: for each job all ids that
    its input names, see ``job_inputs.references``; ``succeeded``: the ids of the jobs that they depend on
    and that have succeeded. The caller has locked the rows of those jobs."""
    ids = sorted({reference for own in named for reference in own})
    if not ids:
        return [None] * len(reads)
    there = {row.id for row in _held(connection, files.c.id, [one for one in ids if is_id("file", one)])}
    for column, kind in ((outputs.c.id, "out"), (outputs.c.job_id, "job")):
        for row in _held(connection, column, [one for one in ids if one.startswith(f"{kind}_")]):
            there |= {row.id, (row.job_id, row.index)}
    return [_gone([read for read in own if not _is_there(read, there, succeeded)]) for own in reads]


def _held(connection: Connection, column: sa.Column[Any], ids: Sequence[str]) -> list[Row[Any]]:
    rows: list[Row[Any]] = []
    for some in in_chunks(ids):
        # in the order of the ids, as whoever removes them does it: two must not wait for each other
        query = sa.select(column.table).where(column.in_(some)).order_by(column.table.c.id)
        rows += connection.execute(query.with_for_update(read=True, key_share=True)).all()
    return rows


def _is_there(read: Read, there: set[Any], succeeded: Collection[str]) -> bool:
    if read.output is None:
        return read.reference in there
    # a job that has not ended has no outputs yet, and the jobs that depend on a deleted one fail for that
    return read.reference not in succeeded or (read.reference, read.output) in there


def _gone(reads: Sequence[Read]) -> InvalidInput | None:
    faults = [
        FieldError(
            read.pointer, f"{read.reference} was deleted, or its time was over; give one that is there"
        )
        for read in reads
    ]
    return InvalidInput(faults) if faults else None
