"""Jobs as clients see them: submit, look, list, cancel, retry, delete."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Row

from shared.chunks import in_chunks
from shared.db import bulk_insert
from shared.db.engine import Database
from shared.db.tables import going_on, jobs, outputs, shown_status
from shared.errors import (
    Conflict,
    FieldError,
    IdempotencyMismatch,
    InvalidInput,
    InvalidTransition,
    NotFound,
    OverLimit,
    QanvasError,
)
from shared.files import holds
from shared.files.job_inputs import forget_made, note_inputs, references
from shared.ids import is_id, new_id
from shared.jobs import cancellation, counting, dependencies, retry, sizes, transitions
from shared.jobs.entities import Job, NewJob, Output, Page, Submitted
from shared.jobs.scheduling import depths, positions
from shared.jobs.scheduling.admission import Room
from shared.jobs.scheduling.fair_queueing import Lane, Shares
from shared.states import TERMINAL, Status
from shared.webhooks import outbox

_NO_LIMITS: Mapping[str, int] = {}

#: what becomes of a submission: the job, or why there is none
Answer = Submitted | InvalidInput | OverLimit


class JobStore:
    """The jobs of all tenants. Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._shares = Shares(database.dialect)

    def submit(
        self, new: Sequence[NewJob], *, limits: Mapping[str, int] = _NO_LIMITS, together: bool = False
    ) -> list[Answer]:
        """Persist jobs in one transaction; a result for each, in order.

        A job whose idempotency key is known is not made again: its result is the earlier job with
        ``replayed`` set, or an IdempotencyMismatch where that came from another request. What reads a file
        that is gone is not made, its result an InvalidInput. ``limits``: the most jobs that a tenant may
        have waiting; what goes beyond is not made, its result an OverLimit. ``together``: the jobs, of one
        tenant and without such keys, are all made or none; raises OverLimit, and InvalidInput whose pointers
        begin with the job's place, as ``/17``.
        """
        with self._database.write() as connection:
            return self._submit(connection, new, limits, together=together)

    def _submit(
        self,
        connection: Connection,
        new: Sequence[NewJob],
        limits: Mapping[str, int],
        *,
        together: bool = False,
        held: Collection[str] = (),
    ) -> list[Answer]:
        now = self._database.now(connection)
        rows = [_row(job, now) for job in new]
        room = Room(self._database, connection, limits, (job.tenant for job in new))
        if together and (refusal := room.take(new[0].tenant, len(new))) is not None:
            raise refusal
        waits = dependencies.hold(self._database, connection, rows, held)
        named = {row["id"]: references(row["input"]) for row in rows}
        gone = holds.hold(connection, [job.reads for job in new], named.values(), waits.succeeded)
        if together and any(gone):
            raise _placed(gone)
        if any(job.idempotency_key is not None for job in new):
            results = self._insert_keyed(connection, rows, named, gone, room)
        else:
            refusals = [
                lost or (None if together else room.take(job.tenant))
                for job, lost in zip(new, gone, strict=True)
            ]
            if made := [row for row, refusal in zip(rows, refusals, strict=True) if refusal is None]:
                self._tag(connection, made)
                bulk_insert.insert(connection, jobs, made)
                note_inputs(connection, {row["id"]: named[row["id"]] for row in made})
            results = [refusal or Submitted(_fresh(row)) for row, refusal in zip(rows, refusals, strict=True)]
        return _entered(connection, waits, rows, results, now)

    def _tag(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
        """Give those that are queued now their places."""
        queued = [row for row in rows if row["status"] == Status.QUEUED]
        tags = self._shares.tags(connection, list(map(_lane, queued)))
        for row, tag in zip(queued, tags, strict=True):
            row["tag"] = tag

    def _insert_keyed(
        self,
        connection: Connection,
        rows: list[dict[str, Any]],
        named: Mapping[str, Collection[str]],
        gone: Sequence[InvalidInput | None],
        room: Room,
    ) -> list[Answer]:
        dialect = postgresql if self._database.dialect == "postgresql" else sqlite
        results: dict[str, Answer] = {}
        self._tag(connection, rows)
        refused = []
        # two that insert the same keys wait for each other's: in one order, or both wait for ever
        ordered = sorted(zip(rows, gone, strict=True), key=lambda one: _key(one[0]))
        for row, lost in ordered:
            refusal = lost or room.take(row["tenant"])
            if refusal is None:
                insert = dialect.insert(jobs).on_conflict_do_nothing().returning(jobs.c.id)
                if connection.execute(insert, row).first() is not None:
                    note_inputs(connection, {row["id"]: named[row["id"]]})
                    results[row["id"]] = Submitted(_fresh(row))
                    continue
                room.give_back(row["tenant"])
            earlier = _keyed(connection, row["tenant"], row["idempotency_key"], row["fingerprint"])
            if isinstance(earlier, Job):
                results[row["id"]] = Submitted(earlier, replayed=True)
            else:
                answer = earlier or refusal
                assert answer is not None  # else it would have been inserted
                results[row["id"]] = answer
            refused.append(row)
        self._shares.refund(connection, [_lane(row) for row in refused if row["tag"] is not None])
        return [results[row["id"]] for row in rows]

    def get(self, job_id: str, *, tenant: str | None = None) -> Job:
        """One job with its outputs. Raises NotFound, also for another tenant's."""
        with self._database.read() as connection:
            return transitions.with_outputs(connection, [_one(connection, job_id, tenant)])[0]

    def keyed(self, key: str, fingerprint: str | None, *, tenant: str) -> Job | None:
        """What this request made earlier, None for nothing. Raises IdempotencyMismatch where another request
        made it."""
        with self._database.read() as connection:
            found = _keyed(connection, tenant, key, fingerprint)
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
            return Page(tuple(transitions.with_outputs(connection, rows)), following)

    def cancel(self, job_id: str, *, tenant: str | None = None) -> Job:
        """End a waiting job at once, or ask a running one to stop.

        Raises NotFound, and InvalidTransition when the job has ended already."""
        with self._database.write() as connection:
            _one(connection, job_id, tenant)
            if moved := cancellation.cancel(self._database, connection, [job_id]):
                return transitions.record(moved[0])
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
            touched += map(transitions.record, rows)
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
        limits: Mapping[str, int] = _NO_LIMITS,
        once: bool = False,
    ) -> Job:
        """A new job like this ended one; ``limits`` as in ``submit``. ``once``: only the first time.

        Raises NotFound, OverLimit, InvalidTransition while it has not ended, and Conflict where it depends on
        a job that has to be retried first, or where it was retried already and is not to be again."""
        with self._database.write() as connection:
            old = transitions.record(_one(connection, job_id, tenant))
            if not old.is_terminal:
                raise InvalidTransition(job_id, old.status, "retried before it has ended")
            [submitted] = self._submit(connection, [retry.like(connection, old)], limits, held=[job_id])
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
            transitions.lock(self._database, connection, [job_id])
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
            return transitions.output_record(row)

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


def _entered(
    connection: Connection,
    waits: dependencies.Waits,
    rows: Sequence[dict[str, Any]],
    results: list[Answer],
    now: float,
) -> list[Answer]:
    """Note what the jobs that were made wait for; those that would wait in vain have failed already."""
    if not waits.edges:
        return results
    made = {one.job.id for one in results if isinstance(one, Submitted) and not one.replayed}
    lost = dependencies.enter(connection, waits, [row for row in rows if row["id"] in made], now)
    failed = {row.id: Submitted(transitions.record(row)) for row in lost}
    return [failed.get(one.job.id, one) if isinstance(one, Submitted) else one for one in results]


def _placed(gone: Sequence[InvalidInput | None]) -> InvalidInput:
    """What is wrong with jobs that are made together, each fault with its job's place."""
    return InvalidInput(
        [
            FieldError(f"/{place}{fault.pointer}", fault.detail)
            for place, lost in enumerate(gone)
            if lost is not None
            for fault in lost.errors
        ]
    )


def _key(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["tenant"], row["idempotency_key"] or ""


def _row(new: NewJob, now: float) -> dict[str, Any]:
    scheduled = new.run_at is not None and new.run_at > now
    return {
        "id": new_id("job"),
        "tenant": new.tenant,
        "task": new.task,
        "model": new.model,
        "queue": new.queue,
        "status": Status.SCHEDULED.value if scheduled else Status.QUEUED.value,
        "priority": new.priority,
        "tag": None,
        "aside": False,
        "input": dict(new.input),
        "metadata": dict(new.metadata),
        "webhook": None if new.webhook is None else asdict(new.webhook),
        "group_name": new.group,
        "idempotency_key": new.idempotency_key,
        "fingerprint": new.fingerprint,
        "attempt": 0,
        "attempts": 0,
        "max_attempts": new.max_attempts,
        "timeout": new.timeout,
        "created_at": now,
        "run_at": new.run_at,
        "due_at": new.run_at if scheduled else None,
        "expires_at": None if new.expires_in is None else now + new.expires_in,
        "queued_at": None if scheduled else now,
        "depends_on": list(dict.fromkeys(new.depends_on)) or None,
        "waits_for": 0,
    }


def _queued(job: Job) -> positions.QueuedJob:
    if job.tag is None:
        raise TypeError(f"{job.id} is not queued: it has no place among others")
    return positions.QueuedJob(job.id, job.queue, job.priority, job.tag)


def _lane(row: Mapping[str, Any]) -> Lane:
    return Lane(row["queue"], row["priority"], row["tenant"])


#: what a job has not had yet when it is submitted
_NOTHING_YET = {
    **dict.fromkeys(
        ("worker", "progress", "result", "error", "load_seconds", "started_at", "finished_at"), None
    ),
    **dict.fromkeys(("awaited", "cancel_requested"), False),
}


def _fresh(row: dict[str, Any]) -> Job:
    known = row | _NOTHING_YET
    del known["idempotency_key"], known["fingerprint"]
    known["group"] = known.pop("group_name")
    known["status"] = Status(row["status"])
    known["depends_on"] = tuple(row["depends_on"] or ())
    known["webhook"] = transitions.webhook(row["webhook"])
    return Job(**known)


def _keyed(
    connection: Connection, tenant: str, key: str, fingerprint: str | None
) -> Job | IdempotencyMismatch | None:
    """The job that a request under this key made, if it was this one."""
    same = (jobs.c.tenant == tenant, jobs.c.idempotency_key == key)
    if (row := connection.execute(sa.select(jobs).where(*same)).one_or_none()) is None:
        return None
    if row.fingerprint != fingerprint:
        return IdempotencyMismatch(key)
    return transitions.with_outputs(connection, [row])[0]


def _one(connection: Connection, job_id: str, tenant: str | None) -> Row[Any]:
    query = sa.select(jobs).where(jobs.c.id == job_id)
    if tenant is not None:
        query = query.where(jobs.c.tenant == tenant)
    if (row := connection.execute(query).one_or_none()) is None:
        raise NotFound("job", job_id)
    return row
