"""Which stored files are still needed: what rows name, and what jobs that have not ended read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shared.database import Database
from shared.ids import first_id, is_id
from shared.jobs.files import JOB_INPUT
from shared.jobs.states import TERMINAL, Status
from shared.jobs.tables import files, job_inputs, jobs, models, outputs, status_in

#: statuses in which a job may still read its inputs
_LIVE = [status for status in Status if status not in TERMINAL]


def references(value: Any) -> frozenset[str]:
    """The files, outputs and jobs that an input, which is JSON, names as ids, wherever they stand in it."""
    found, left = set(), [value]
    while left:
        match left.pop():
            case str(text) if is_id("file", text) or is_id("out", text) or is_id("job", text):
                found.add(text)
            case dict(members):
                left.extend(members.values())
            case list(items):
                left.extend(items)
    return frozenset(found)


def note_inputs(connection: Connection, rows: Iterable[Mapping[str, Any]]) -> None:
    """Remember which files these new rows of ``jobs`` read, in the transaction that inserts them."""
    named = [
        {"job_id": row["id"], "reference": reference}
        for row in rows
        for reference in sorted(references(row["input"]))
    ]
    if named:
        connection.execute(sa.insert(job_inputs), named)


def forget_made(connection: Connection, job_id: str) -> list[str]:
    """Forget the files that were made of a job's ``data:`` URIs and that no other job names; their keys."""
    own, others = job_inputs.alias("own"), job_inputs.alias("others")
    made = sa.delete(files).where(
        files.c.purpose == JOB_INPUT,
        files.c.id.in_(sa.select(own.c.reference).where(own.c.job_id == job_id)),
        ~sa.exists().where(others.c.reference == files.c.id, others.c.job_id != job_id),
    )
    return list(connection.execute(made.returning(files.c.key)).scalars())


def _in_use(*columns: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """Whether a job that has not ended names the id in one of these columns."""
    named = sa.or_(*(job_inputs.c.reference == column for column in columns))
    reader = jobs.alias("reader")
    live = reader.c.status.in_([status.value for status in _LIVE])
    return sa.exists(
        sa.select(sa.literal(1))
        .select_from(job_inputs.join(reader, reader.c.id == job_inputs.c.job_id))
        .where(named, live)
    )


class Kept:
    """What retention asks the database. Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def expire_outputs(self, seconds: float, limit: int) -> list[str]:
        """Forget outputs older than so many seconds that no waiting or running job reads; their keys."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            # an id begins with the time it was made at: the primary key is the index of ages
            old = (
                sa.select(outputs.c.id)
                .where(
                    outputs.c.id < first_id("out", now - seconds),
                    ~_in_use(outputs.c.id, outputs.c.job_id),
                )
                .order_by(outputs.c.id)
                .limit(limit)
            )
            gone = sa.delete(outputs).where(outputs.c.id.in_(old)).returning(outputs.c.key)
            return list(connection.execute(gone).scalars())

    def expire_files(self, seconds: float, limit: int) -> list[str]:
        """Forget files older than so many seconds that no waiting or running job reads; their keys."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            old = (
                sa.select(files.c.id)
                .where(files.c.id < first_id("file", now - seconds), ~_in_use(files.c.id))
                .order_by(files.c.id)
                .limit(limit)
            )
            gone = sa.delete(files).where(files.c.id.in_(old)).returning(files.c.key)
            return list(connection.execute(gone).scalars())

    def unnamed_files(self, keys: Sequence[str]) -> list[str]:
        """Those of these keys below ``files/`` that no row names."""
        with self._database.read() as connection:
            query = sa.select(files.c.key).where(files.c.key.in_(keys))
            named = set(connection.execute(query).scalars())
        return [key for key in keys if key not in named]

    def unnamed_outputs(self, keys: Sequence[str]) -> list[str]:
        """Those of these keys ``outputs/JOB/…`` that no row names and no attempt may be about to name."""
        owners = {key: key.split("/")[1] for key in keys}
        with self._database.read() as connection:
            live = _live(connection, owners.values())
            query = sa.select(outputs.c.key).where(outputs.c.job_id.in_(set(owners.values())))
            named = set(connection.execute(query).scalars())
        return [key for key in keys if key not in named and owners[key] not in live]

    def unnamed_models(self, keys: Sequence[str]) -> list[str]:
        """Those of these keys ``models/JOB-ATTEMPT/…`` that no trained model is made of, nor may soon be."""
        folders = {key: key.split("/")[1] for key in keys}
        owners = {folder: folder.rpartition("-")[0] for folder in folders.values()}
        with self._database.read() as connection:
            live = _live(connection, owners.values())
            prefixes = {entry["prefix"] for entry in connection.execute(sa.select(models.c.entry)).scalars()}
        named = {folder for folder in owners if f"models/{folder}" in prefixes}
        return [key for key, folder in folders.items() if folder not in named and owners[folder] not in live]


def _live(connection: Connection, job_ids: Iterable[str]) -> set[str]:
    query = sa.select(jobs.c.id).where(jobs.c.id.in_(set(job_ids)), status_in(*_LIVE))
    return set(connection.execute(query).scalars())
