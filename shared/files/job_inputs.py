"""Which files, outputs and jobs the inputs of jobs name: the rows of ``job_inputs``."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shared.db import bulk_insert
from shared.db.tables import files, job_inputs
from shared.files.store import JOB_INPUT, delete_unless
from shared.ids import pattern

#: what an input may name
_REFERENCE = re.compile("|".join((pattern("file"), pattern("out"), pattern("job"))))


def references(value: Any) -> frozenset[str]:
    """The files, outputs and jobs that an input, which is JSON, names as ids, wherever they stand in it."""
    found, left = set(), [value]
    while left:
        part = left.pop()
        if isinstance(part, str):
            if _REFERENCE.fullmatch(part):
                found.add(part)
        elif isinstance(part, dict | list):
            left.extend(part.values() if isinstance(part, dict) else part)
    return frozenset(found)


def note_inputs(connection: Connection, named: Mapping[str, Collection[str]]) -> None:
    """Remember what the inputs of new jobs name, by id, in the transaction that inserts them."""
    noted = [
        {"job_id": job_id, "reference": reference}
        for job_id, own in named.items()
        for reference in sorted(own)
    ]
    if noted:
        bulk_insert.insert(connection, job_inputs, noted)


def forget_made(connection: Connection, job_id: str) -> list[str]:
    """Forget the files that were made of a job's ``data:`` URIs and that no other job names; their keys."""
    own, others = job_inputs.alias("own"), job_inputs.alias("others")
    named = sa.select(own.c.reference).where(own.c.job_id == job_id)
    made = sa.select(files.c.id).where(files.c.purpose == JOB_INPUT, files.c.id.in_(named))
    ids = connection.execute(made.order_by(files.c.id).with_for_update()).scalars().all()
    return delete_unless(
        connection,
        files,
        ids,
        ~sa.exists().where(others.c.reference == files.c.id, others.c.job_id != job_id),
    )
