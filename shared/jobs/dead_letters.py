"""Dead letters: jobs that have failed for good, to be looked at and tried again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from shared.db.engine import Database
from shared.db.tables import jobs, status_in, untried
from shared.jobs import sizes
from shared.jobs.entities import Page
from shared.jobs.rows import to_job
from shared.states import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which letters; None is any. ``since``: failed at this time or later, in seconds since 1970."""

    task: str | None = None
    model: str | None = None
    error_type: str | None = None
    group: str | None = None
    since: float | None = None

    def where(self, tenant: str) -> list[sa.ColumnElement[bool]]:
        """The conditions on ``jobs``."""
        wanted: Mapping[Any, Any] = {
            jobs.c.task: self.task,
            jobs.c.model: self.model,
            jobs.c.group_name: self.group,
            jobs.c.error["type"].as_string(): self.error_type,
        }
        found = [status_in(Status.FAILED), jobs.c.tenant == tenant]
        found += [column == value for column, value in wanted.items() if value is not None]
        return found if self.since is None else [*found, jobs.c.finished_at >= self.since]


class DeadLetters:
    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self, tenant: str, which: Filter, *, limit: int, cursor: str | None = None) -> Page:
        """A page of letters, newest first, after the one that ``cursor`` names; it ends early where they are
        large with their attempts."""
        where = which.where(tenant)
        if cursor is not None:
            where.append(jobs.c.id < cursor)
        dialect = self._database.dialect
        size = sizes.text_bytes(dialect, *sizes.WRITTEN) + sizes.attempts_bytes(dialect)
        with self._database.read() as connection:
            rows, following = sizes.page(connection, where, size, limit)
            return Page(tuple(map(to_job, rows)), following)

    def untried(self, tenant: str, which: Filter, *, limit: int, after: str, until: str) -> Sequence[str]:
        """The ids of letters between these two that nobody has tried again yet.

        The oldest first: what a job depends on comes before it, and is tried again before it."""
        open_ = (untried, jobs.c.id > after, jobs.c.id < until)
        query = sa.select(jobs.c.id).where(*which.where(tenant), *open_).order_by(jobs.c.id).limit(limit)
        with self._database.read() as connection:
            return connection.execute(query).scalars().all()
