"""Rows of files past their time, and stored files that no row names; never one that a job still reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shared.db.engine import Database
from shared.db.tables import files, going_on, job_inputs, jobs, models, outputs
from shared.files.store import JOB_INPUT, delete_unless
from shared.ids import Kind, first_id
from shared.states import GOING_ON


def _in_use(*columns: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """Whether a job that has not ended names the id in one of these columns."""
    named = sa.or_(*(job_inputs.c.reference == column for column in columns))
    reader = jobs.alias("reader")
    live = reader.c.status.in_([status.value for status in GOING_ON])
    return sa.exists(
        sa.select(sa.literal(1))
        .select_from(job_inputs.join(reader, reader.c.id == job_inputs.c.job_id))
        .where(named, live)
    )


class RetentionStore:
    """What retention asks the database. Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def expire_outputs(self, seconds: float, limit: int) -> list[str]:
        """Forget outputs older than so many seconds that no waiting or running job reads; their keys."""
        return self._expire(outputs, "out", ~_in_use(outputs.c.id, outputs.c.job_id), seconds, limit)

    def expire_files(self, seconds: float, limit: int) -> list[str]:
        """Forget files older than so many seconds that no waiting or running job reads; their keys."""
        return self._expire(files, "file", ~_in_use(files.c.id), seconds, limit)

    def expire_unread_inputs(self, seconds: float, limit: int) -> list[str]:
        """Forget files that were made of ``data:`` URIs so long ago and that no job names, as whoever stored
        them died before the job was made; their keys."""
        named = sa.exists().where(job_inputs.c.reference == files.c.id)
        return self._expire(files, "file", sa.and_(files.c.purpose == JOB_INPUT, ~named), seconds, limit)

    def _expire(
        self, table: sa.Table, kind: Kind, idle: sa.ColumnElement[bool], seconds: float, limit: int
    ) -> list[str]:
        with self._database.write() as connection:
            now = self._database.now(connection)
            # an id begins with the time it was made at: the primary key is the index of ages
            old = sa.select(table.c.id).where(table.c.id < first_id(kind, now - seconds), idle)
            # what a submission holds just now is passed over
            old = old.order_by(table.c.id).limit(limit).with_for_update(skip_locked=True)
            return delete_unless(connection, table, connection.execute(old).scalars().all(), idle)

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
    query = sa.select(jobs.c.id).where(jobs.c.id.in_(set(job_ids)), going_on)
    return set(connection.execute(query).scalars())
