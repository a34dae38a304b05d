"""What became of attempts: one row for each that did not succeed, written where it ends, in that transaction.

A claim writes nothing here: while an attempt runs, its job's own row says where and since when. Nor does a
success, which that row tells of for good; so the path of every job pays nothing for the history of a few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shared.db.engine import Database
from shared.db.tables import attempts, workers

#: how an attempt may end other than well; one that is handed back does not count
How = Literal["failed", "canceled", "handed-back", "worker-lost"]

#: attempts of one job that are shown: those that were handed back do not count against ``max_attempts``, so
#: there may be any number
MAX_SHOWN = 500

#: a worker that was forgotten already has no host
_HOST = sa.select(workers.c.host).where(workers.c.id == sa.bindparam("the_worker")).scalar_subquery()
_INSERT = sa.insert(attempts).values(host=_HOST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An attempt that has ended. Times are seconds since 1970; ``traceback`` is for operators."""

    job_id: str
    #: the fence of the attempt: 1 for the first, and never the same twice
    attempt: int
    worker: str | None
    host: str | None
    started_at: float | None
    ended_at: float
    how: How
    error: Mapping[str, Any] | None
    traceback: str | None


def note(
    connection: Connection,
    running: Row[Any],
    how: How,
    *,
    now: float,
    error: Mapping[str, Any] | None = None,
    traceback: str | None = None,
) -> None:
    """Keep how the attempt ended that a job's row told of while it was ``running``."""
    ended = {
        "job_id": running.id,
        "attempt": running.attempt,
        "worker": running.worker,
        "the_worker": running.worker,
        "started_at": running.started_at,
        "ended_at": now,
        "how": how,
        "error": error,
        "traceback": traceback,
    }
    connection.execute(_INSERT, ended)


class Attempts:
    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, job_ids: Sequence[str]) -> dict[str, list[Attempt]]:
        """The attempts of these jobs that have ended, and not well, by job: the first one first, and the last
        ``MAX_SHOWN`` of each."""
        found: dict[str, list[Attempt]] = {job_id: [] for job_id in job_ids}
        query = sa.select(attempts).where(attempts.c.job_id.in_(job_ids))
        query = query.order_by(attempts.c.job_id, attempts.c.attempt.desc()).limit(MAX_SHOWN * len(found))
        with self._database.read() as connection:
            for row in connection.execute(query):
                if len(found[row.job_id]) < MAX_SHOWN:
                    found[row.job_id].append(Attempt(**row._mapping))
        return {job_id: own[::-1] for job_id, own in found.items()}
