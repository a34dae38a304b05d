"""Uploaded files: what they are called and where they lie. The bytes are in storage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shared.db.engine import Database
from shared.db.tables import files
from shared.errors import NotFound
from shared.ids import new_id

#: the purpose of files that were made of the ``data:`` URIs of a job
JOB_INPUT = "job-input"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """A file that lies in storage under ``key`` already."""

    tenant: str
    filename: str
    purpose: str
    media_type: str
    bytes: int
    sha256: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord(NewFile):
    id: str
    created_at: float


class FileStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, new: NewFile) -> FileRecord:
        """Name a stored file."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            row = {"id": new_id("file"), "created_at": now, **asdict(new)}
            connection.execute(sa.insert(files), row)
        return FileRecord(**row)

    def get(self, file_id: str, *, tenant: str | None = None) -> FileRecord:
        """Raises NotFound, also for another tenant's."""
        query = sa.select(files).where(files.c.id == file_id)
        if tenant is not None:
            query = query.where(files.c.tenant == tenant)
        with self._database.read() as connection:
            if (row := connection.execute(query).one_or_none()) is None:
                raise NotFound("file", file_id)
            return _record(row)

    def list(
        self, tenant: str, *, purpose: str | None = None, limit: int = 100, after: str | None = None
    ) -> list[FileRecord]:
        """Newest first, those older than the id ``after``."""
        query = sa.select(files).where(files.c.tenant == tenant).order_by(files.c.id.desc()).limit(limit)
        if purpose is not None:
            query = query.where(files.c.purpose == purpose)
        if after is not None:
            query = query.where(files.c.id < after)
        with self._database.read() as connection:
            return list(map(_record, connection.execute(query)))

    def delete(self, file_id: str, *, tenant: str | None = None) -> str:
        """Forget a file; returns its storage key, for the caller to remove. Raises NotFound."""
        where = [files.c.id == file_id]
        if tenant is not None:
            where.append(files.c.tenant == tenant)
        with self._database.write() as connection:
            key = connection.execute(
                sa.delete(files).where(*where).returning(files.c.key)
            ).scalar_one_or_none()
        if key is None:
            raise NotFound("file", file_id)
        return str(key)


def delete_unless(
    connection: Connection, table: sa.Table, ids: Sequence[str], unless: sa.ColumnElement[bool]
) -> list[str]:
    """Forget these locked files or outputs; their keys.

    The condition that they were found by is asked again: who came to name one before it was locked has
    committed by now, and this statement sees it."""
    gone = sa.delete(table).where(table.c.id.in_(ids), unless).returning(table.c.key)
    return list(connection.execute(gone).scalars()) if ids else []


def _record(row: Row[Any]) -> FileRecord:
    return FileRecord(**row._mapping)
