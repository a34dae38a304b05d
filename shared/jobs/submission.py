"""New jobs: inserted with their start tags, what they read and what they wait for, in one transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shared.db import bulk_insert, dialects
from shared.db.engine import Database
from shared.db.tables import jobs
from shared.errors import FieldError, IdempotencyMismatch, InvalidInput, OverLimit
from shared.files import holds
from shared.files.job_inputs import note_inputs, references
from shared.jobs import dependencies
from shared.jobs.entities import Job, NewJob, Submitted
from shared.jobs.rows import inserted_job, new_row, to_job, with_outputs
from shared.jobs.scheduling.admission import WaitingQuota
from shared.jobs.scheduling.fair_queueing import FairQueue, Lane
from shared.states import Status

NO_LIMITS: Mapping[str, int] = {}

#: what a submission comes to: the job, or why there is none
SubmissionResult = Submitted | InvalidInput | OverLimit


class Submissions:
    """Inserts jobs, each time in the transaction of its caller."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queue = FairQueue(database.dialect)

    def insert(
        self,
        connection: Connection,
        new: Sequence[NewJob],
        limits: Mapping[str, int] = NO_LIMITS,
        *,
        together: bool = False,
        also_locked: Collection[str] = (),
    ) -> list[SubmissionResult]:
        """Insert jobs; a result for each, in order.

        A job whose idempotency key is known is not made again: its result is the earlier job with
        ``replayed`` set, or an IdempotencyMismatch where that came from another request. A job that reads a
        file that is gone is not made, its result is an InvalidInput.

        ``limits``: the most jobs that a tenant may have waiting; what goes beyond is not made, its result is
        an OverLimit. ``together``: the jobs, of one tenant and without such keys, are all made or none;
        raises OverLimit, and InvalidInput whose pointers begin with the job's place, as ``/17``.
        ``also_locked``: ids of jobs that the transaction will write to later."""
        now = self._database.now(connection)
        rows = [new_row(job, now) for job in new]
        quota = WaitingQuota(self._database, connection, limits, (job.tenant for job in new))
        if together and (refusal := quota.reserve(new[0].tenant, len(new))) is not None:
            raise refusal
        waits = dependencies.hold(connection, rows, also_locked)
        named = {row["id"]: references(row["input"]) for row in rows}
        faults = holds.hold(connection, [job.reads for job in new], named.values(), waits.succeeded)
        if together and any(faults):
            raise _placed(faults)
        if any(job.idempotency_key is not None for job in new):
            results = self._insert_keyed(connection, rows, named, faults, quota)
        else:
            refusals = [
                fault or (None if together else quota.reserve(job.tenant))
                for job, fault in zip(new, faults, strict=True)
            ]
            if made := [row for row, refusal in zip(rows, refusals, strict=True) if refusal is None]:
                self._tag(connection, made)
                bulk_insert.insert(connection, jobs, made)
                note_inputs(connection, {row["id"]: named[row["id"]] for row in made})
            results = [
                refusal or Submitted(inserted_job(row)) for row, refusal in zip(rows, refusals, strict=True)
            ]
        return _with_dependencies(connection, waits, rows, results, now)

    def _tag(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
        """Give a start tag to those that are queued now."""
        queued = [row for row in rows if row["status"] == Status.QUEUED]
        tags = self._queue.tags(connection, list(map(_lane, queued)))
        for row, tag in zip(queued, tags, strict=True):
            row["tag"] = tag

    def _insert_keyed(
        self,
        connection: Connection,
        rows: list[dict[str, Any]],
        named: Mapping[str, Collection[str]],
        faults: Sequence[InvalidInput | None],
        quota: WaitingQuota,
    ) -> list[SubmissionResult]:
        """Insert the rows one by one, since each may turn out to be a replay by its idempotency key."""
        results: dict[str, SubmissionResult] = {}
        self._tag(connection, rows)
        not_inserted = []
        # in the order of the keys: two transactions that insert the same keys must not deadlock
        ordered = sorted(zip(rows, faults, strict=True), key=lambda one: _key(one[0]))
        for row, fault in ordered:
            refusal = fault or quota.reserve(row["tenant"])
            if refusal is None:
                if dialects.insert_if_missing(connection, jobs, row):
                    note_inputs(connection, {row["id"]: named[row["id"]]})
                    results[row["id"]] = Submitted(inserted_job(row))
                    continue
                quota.release(row["tenant"])
            earlier = find_by_key(connection, row["tenant"], row["idempotency_key"], row["fingerprint"])
            if isinstance(earlier, Job):
                results[row["id"]] = Submitted(earlier, replayed=True)
            else:
                result = earlier or refusal
                assert result is not None  # else it would have been inserted
                results[row["id"]] = result
            not_inserted.append(row)
        self._queue.refund(connection, [_lane(row) for row in not_inserted if row["tag"] is not None])
        return [results[row["id"]] for row in rows]


def _with_dependencies(
    connection: Connection,
    waits: dependencies.Waits,
    rows: Sequence[dict[str, Any]],
    results: list[SubmissionResult],
    now: float,
) -> list[SubmissionResult]:
    """Insert what the new jobs depend on; the results, in which those that can never start have failed."""
    if not waits.edges:
        return results
    made = {one.job.id for one in results if isinstance(one, Submitted) and not one.replayed}
    failed_rows = dependencies.enter(connection, waits, [row for row in rows if row["id"] in made], now)
    failed = {row.id: Submitted(to_job(row)) for row in failed_rows}
    return [failed.get(one.job.id, one) if isinstance(one, Submitted) else one for one in results]


def _placed(faults: Sequence[InvalidInput | None]) -> InvalidInput:
    """The faults of jobs that are made together, each with its job's place."""
    return InvalidInput(
        [
            FieldError(f"/{place}{error.pointer}", error.detail)
            for place, fault in enumerate(faults)
            if fault is not None
            for error in fault.errors
        ]
    )


def _key(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["tenant"], row["idempotency_key"] or ""


def _lane(row: Mapping[str, Any]) -> Lane:
    return Lane(row["queue"], row["priority"], row["tenant"])


def find_by_key(
    connection: Connection, tenant: str, key: str, fingerprint: str | None
) -> Job | IdempotencyMismatch | None:
    """The job that a request made under this idempotency key, None where there is none; an
    IdempotencyMismatch, not raised, where the fingerprint is that of another request."""
    same = (jobs.c.tenant == tenant, jobs.c.idempotency_key == key)
    if (row := connection.execute(sa.select(jobs).where(*same)).one_or_none()) is None:
        return None
    if row.fingerprint != fingerprint:
        return IdempotencyMismatch(key)
    return with_outputs(connection, [row])[0]
