"""Jobs as clients see them: submit, look, list, cancel, retry, delete."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shared.chunks import in_chunks
from shared.db import dialects
from shared.db.engine import Database
from shared.db.tables import going_on, jobs, outputs, shown_status
from shared.errors import (
    Conflict,
    FieldError,
    IdempotencyMismatch,
    InvalidInput,
    InvalidTransition,
    NotFound,
    QanvasError,
)
from shared.files.job_inputs import forget_made
from shared.ids import is_id
from shared.jobs import cancellation, counting, dependencies, retry, sizes, submission
from shared.jobs.entities import Job, NewJob, Output, Page
from shared.jobs.rows import to_job, to_output, with_outputs
from shared.jobs.scheduling import depths, positions
from shared.jobs.submission import SubmissionResult, Submissions
from shared.states import TERMINAL, Status
from shared.webhooks import outbox


class JobStore:
    """The jobs of all tenants. Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._submissions = Submissions(database)

    def submit(
        self,
        new: Sequence[NewJob],
        *,
        limits: Mapping[str, int] = submission.NO_LIMITS,
        together: bool = False,
    ) -> list[SubmissionResult]:
        """Persist jobs in one transaction; a result for each, in order. See ``Submissions.insert``."""
        with self._database.write() as connection:
            return self._submissions.insert(connection, new, limits, together=together)

    def get(self, job_id: str, *, tenant: str | None = None) -> Job:
        """One job with its outputs. Raises NotFound, also for another tenant's."""
        with self._database.read() as connection:
            return with_outputs(connection, [_one(connection, job_id, tenant)])[0]

    def keyed(self, key: str, fingerprint: str | None, *, tenant: str) -> Job | None:
        """What this request made earlier, None for nothing. Raises IdempotencyMismatch where another request
        made it."""
        with self._database.read() as connection:
            found = submission.find_by_key(connection, tenant, key, fingerprint)
        if isinstance(found, IdempotencyMismatch):
            raise found
        return found

    def owned(self, job_ids: Sequence[str], *, tenant: str) -> set[str]:
        """Those of the ids that are jobs of the tenant."""
        mine = sa.select(jobs.c.id).where(jobs.c.id.in_(job_ids), jobs.c.tenant == tenant)
        with self._database.read() as connection:
            return set(connection.execute(mine).scalars())

    def ended(self, job_ids: Collection[str]) -> set[str]:
        """Those of these jobs that have ended, or are gone."""
        query = sa.select(jobs.c.id).where(jobs.c.id.in_(job_ids), going_on)
        with self._database.read() as connection:
            return set(job_ids) - set(connection.execute(query).scalars())

    def list(
        self,
        tenant: str,
        *,
        status: Status | None = None,
        task: str | None = None,
        model: str | None = None,
        group: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """A page of jobs, newest first; it ends early where they are large. Raises InvalidInput for a cursor
        that no page gave."""
        if cursor is not None and not is_id("job", cursor):
            raise InvalidInput([FieldError("/cursor", "must be the next_cursor of an earlier page")])
        wanted = {shown_status: status, jobs.c.task: task, jobs.c.model: model, jobs.c.group_name: group}
        where = [jobs.c.tenant == tenant] + [
            column == value for column, value in wanted.items() if value is not None
        ]
        if cursor is not None:
            where.append(jobs.c.id < cursor)
        size = sizes.text_bytes(self._database.dialect, *sizes.WRITTEN)
        with self._database.read() as connection:
            rows, following = sizes.page(connection, where, size, limit)
            return Page(tuple(with_outputs(connection, rows)), following)

    def cancel(self, job_id: str, *, tenant: str | None = None) -> Job:
        """End a waiting job at once, or ask a running one to stop.

        Raises NotFound, and InvalidTransition when the job has ended already."""
        with self._database.write() as connection:
            _one(connection, job_id, tenant)
            if moved := cancellation.cancel(self._database, connection, [job_id]):
                return to_job(moved[0])
            raise InvalidTransition(job_id, _one(connection, job_id, tenant).status, "canceled")

    def cancel_group(self, group: str, *, tenant: str) -> Sequence[Job]:
        """Cancel what has not ended in a group; returns the jobs this touched. Raises NotFound.

        Several transactions where there are many: each job is canceled with its webhook, or not yet."""
        with self._database.read() as connection:
            if (ids := cancellation.members_going_on(connection, group, tenant)) is None:
                raise NotFound("group", group)
        touched: list[Job] = []
        for some in in_chunks(ids, cancellation.MAX_TOGETHER):
            with self._database.write() as connection:
                rows = cancellation.cancel(self._database, connection, some)
            touched += map(to_job, rows)
        return touched

    def counts(self, *, tenant: str | None = None, group: str | None = None) -> dict[str, int]:
        """How many jobs there are in each status that clients see; those without any are left out."""
        with self._database.read() as connection:
            if tenant is None and group is None:
                return counting.everything(connection)
            return counting.some(connection, tenant, group)

    def retry(
        self,
        job_id: str,
        *,
        tenant: str | None = None,
        limits: Mapping[str, int] = submission.NO_LIMITS,
        once: bool = False,
    ) -> Job:
        """A new job like this ended one; ``limits`` as in ``submit``. ``once``: only the first time.

        Raises NotFound, OverLimit, InvalidTransition while it has not ended, and Conflict where it depends on
        a job that has to be retried first, or where it was retried already and is not to be again."""
        with self._database.write() as connection:
            old = to_job(_one(connection, job_id, tenant))
            if not old.is_terminal:
                raise InvalidTransition(job_id, old.status, "retried before it has ended")
            again = retry.job_like(connection, old)
            [submitted] = self._submissions.insert(connection, [again], limits, also_locked=[job_id])
            if isinstance(submitted, QanvasError):
                raise submitted
            mark = sa.update(jobs).where(jobs.c.id == job_id).values(retried_as=submitted.job.id)
            if once:  # whoever else retries it is waited for here, and what was made above is taken back
                mark = mark.where(jobs.c.retried_as.is_(None))
            if connection.execute(mark).rowcount:
                return submitted.job
            by = _one(connection, job_id, tenant).retried_as
            raise Conflict(f"job {job_id} was retried already, as {by}")

    def delete(self, job_id: str, *, tenant: str | None = None) -> Sequence[str]:
        """Forget an ended job; returns the storage keys of its outputs and of what was made of its ``data:``
        URIs, for the caller to remove.

        Raises NotFound, and Conflict while it, or a job that depends on it, has not ended."""
        with self._database.write() as connection:
            dialects.lock_rows(connection, jobs.c.id, [job_id])
            row = _one(connection, job_id, tenant)
            if Status(row.status) not in TERMINAL:
                raise InvalidTransition(job_id, row.status, "deleted before it has ended; cancel it first")
            if dependencies.is_needed(connection, job_id):
                raise Conflict(
                    f"job {job_id} cannot be deleted while a job that depends on it has not ended; "
                    "cancel that one first"
                )
            keys = forget_made(connection, job_id)
            own = sa.select(outputs.c.key).where(outputs.c.job_id == job_id).order_by(outputs.c.id)
            keys += connection.execute(own.with_for_update()).scalars()
            connection.execute(sa.delete(outputs).where(outputs.c.job_id == job_id))
            outbox.forget(connection, job_id)
            connection.execute(sa.delete(jobs).where(jobs.c.id == job_id))
            return keys

    def output(self, output_id: str, *, tenant: str | None = None) -> Output:
        """One output. Raises NotFound, also for another tenant's."""
        query = sa.select(outputs).join(jobs, jobs.c.id == outputs.c.job_id).where(outputs.c.id == output_id)
        if tenant is not None:
            query = query.where(jobs.c.tenant == tenant)
        with self._database.read() as connection:
            if (row := connection.execute(query).one_or_none()) is None:
                raise NotFound("output", output_id)
            return to_output(row)

    def positions(self, queued: Sequence[Job], *, most: int) -> Sequence[int | None]:
        """For each of these queued jobs how many of its queue will be claimed before it, 0 for the next.

        Counting takes as long as there are jobs before it; it ends at ``most``, with None."""
        with self._database.read() as connection:
            return positions.positions(connection, list(map(_queued, queued)), most=most)

    def depths(self) -> Sequence[depths.QueueDepth]:
        """The queues that have jobs waiting, with how many and for how long, by name. Takes as long as there
        are such jobs."""
        with self._database.read() as connection:
            return depths.depths(connection, self._database.now(connection))

    def ready(self, most: int) -> Mapping[str, int]:
        """How many jobs of each queue may be claimed, counted up to ``most``: what that costs does not grow
        with the depth of the queues."""
        with self._database.read() as connection:
            return depths.ready(connection, most)


def _queued(job: Job) -> positions.QueuedJob:
    if job.tag is None:
        raise TypeError(f"{job.id} is not queued: it has no place among others")
    return positions.QueuedJob(job.id, job.queue, job.priority, job.tag)


def _one(connection: Connection, job_id: str, tenant: str | None) -> Row[Any]:
    query = sa.select(jobs).where(jobs.c.id == job_id)
    if tenant is not None:
        query = query.where(jobs.c.tenant == tenant)
    if (row := connection.execute(query).one_or_none()) is None:
        raise NotFound("job", job_id)
    return row
