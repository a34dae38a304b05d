"""A worker's leases of jobs: claim, renew, finish."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shared.db import bulk_insert, dialects
from shared.db.engine import Database
from shared.db.tables import jobs, models, outputs, status_in
from shared.errors import LeaseLost
from shared.ids import new_id
from shared.jobs import attempts, notifications, transitions
from shared.jobs.backoff import Backoff
from shared.jobs.cancellation import CANCELED_WHILE_RUNNING
from shared.jobs.entities import (
    Ending,
    Failed,
    Finish,
    HandedBack,
    Job,
    Output,
    Renewal,
    StoppedOnRequest,
    Succeeded,
)
from shared.jobs.rows import to_job
from shared.jobs.scheduling import claims
from shared.jobs.scheduling.concurrency_limits import RunningLimit, unlimited
from shared.states import Status

#: characters that are kept of an error message, from its beginning, and of a traceback, from its end
MAX_MESSAGE, MAX_TRACEBACK = 2000, 20_000

_HOW: Mapping[type[Ending], attempts.How] = {
    Failed: "failed",
    StoppedOnRequest: "canceled",
    HandedBack: "handed-back",
}


class Leases:
    """Grants and renews leases, and ends attempts. Every method is one transaction, and raises Unavailable.

    A claim is durable before the worker acts upon it: one that a crashed server forgot would give the same
    attempt to two workers, and the files of one would be removed as those of the other."""

    def __init__(
        self,
        database: Database,
        lease_seconds: float,
        backoff: Backoff | None = None,
        running_limit: RunningLimit = unlimited,
    ) -> None:
        """``running_limit``: how many jobs a tenant may have running, see ``concurrency_limits``."""
        self._database = database
        self._seconds = lease_seconds
        self._backoff = backoff or Backoff()
        self._running_limit = running_limit

    def claim(
        self, worker_id: str, queue: str, *, limit: int = 1, resident: Collection[str] = ()
    ) -> list[Job]:
        """Take up to ``limit`` of the best queued jobs: highest priority first, then by fair shares, then
        oldest; those for a ``resident`` model a bounded way ahead of others, see ``affinity``.

        Each is running now, its ``attempt`` raised; nobody else gets it while the lease is renewed."""
        with self._database.write(durable=self._database.is_server) as connection:
            take = partial(
                transitions.claim,
                self._database,
                connection,
                worker=worker_id,
                lease_seconds=self._seconds,
            )
            rows = claims.claim(
                self._database,
                connection,
                queue,
                take,
                limit=limit,
                resident=resident,
                running_limit=self._running_limit,
            )
        return list(map(to_job, rows))

    def renew(
        self, worker_id: str, held: Mapping[str, int], progress: Mapping[str, Mapping[str, Any]]
    ) -> Renewal:
        """Extend the leases of ``held`` (id → attempt) and note their progress.

        The answer says which were lost and which shall stop."""
        if not held:
            return Renewal(frozenset(), frozenset())
        with self._database.write(durable=False) as connection:
            dialects.lock_rows(connection, jobs.c.id, list(held))
            now = self._database.now(connection)
            mine = (
                jobs.c.id.in_(list(held)),
                jobs.c.worker == worker_id,
                status_in(Status.RUNNING),
            )
            renewed = connection.execute(
                sa.update(jobs)
                .where(*mine)
                .values(lease_until=now + self._seconds)
                .returning(jobs.c.id, jobs.c.attempt, jobs.c.cancel_requested_at)
            ).all()
            kept = {row.id for row in renewed if held[row.id] == row.attempt}
            if noted := [
                {"job": job_id, "seen": dict(progress[job_id])} for job_id in kept & progress.keys()
            ]:
                connection.execute(
                    sa.update(jobs)
                    .where(jobs.c.id == sa.bindparam("job"))
                    .values(progress=sa.bindparam("seen")),
                    noted,
                )
        return Renewal(
            lost=frozenset(held.keys() - kept),
            canceled=frozenset(
                row.id for row in renewed if row.id in kept and row.cancel_requested_at is not None
            ),
        )

    def name_checkpoint(self, worker_id: str, job_id: str, attempt: int, name: str) -> None:
        """Let this checkpoint be the one that a later attempt goes on from.

        Raises LeaseLost where the attempt is no longer this worker's: then nothing was changed."""
        mine = (
            jobs.c.id == job_id,
            status_in(Status.RUNNING),
            jobs.c.attempt == attempt,
            jobs.c.worker == worker_id,
        )
        # durable: the checkpoint that this one replaces is removed afterwards
        with self._database.write() as connection:
            if not connection.execute(sa.update(jobs).where(*mine).values(checkpoint=name)).rowcount:
                raise LeaseLost(job_id, attempt)

    def finish(self, finishes: Sequence[Finish]) -> list[Job | LeaseLost]:
        """Write how attempts ended, in one transaction; a result for each, in order.

        A LeaseLost says that the attempt is no longer this worker's: nothing was written for it, and the
        files it stored are the caller's to remove. A retryable failure with attempts left runs again after a
        random wait that grows with the attempts; a job that is handed back, at once."""
        with self._database.write() as connection:
            if len(finishes) > 1:  # in order, as everywhere: two writers of many rows must not deadlock
                dialects.lock_rows(connection, jobs.c.id, [finish.job_id for finish in finishes])
            now = self._database.now(connection)
            ended = self._succeed(connection, finishes, now)
            for finish in finishes:
                if not isinstance(finish.ending, Succeeded) and (row := self._end(connection, finish, now)):
                    ended[finish.job_id, finish.attempt] = to_job(row)
            notifications.append(connection, list(ended.values()), now)
        return [
            ended.get((one.job_id, one.attempt)) or LeaseLost(one.job_id, one.attempt) for one in finishes
        ]

    def _succeed(
        self, connection: Connection, finishes: Sequence[Finish], now: float
    ) -> dict[tuple[str, int], Job]:
        """End those that went well, together; insert the rows that name their outputs and trained models."""
        good = {
            (one.job_id, one.attempt): one.ending for one in finishes if isinstance(one.ending, Succeeded)
        }
        if not good:
            return {}
        values = {attempt: _step_of(ending)[1] for attempt, ending in good.items()}
        rows = transitions.apply_to_many(connection, "succeed", values, now=now)
        ended: dict[tuple[str, int], Job] = {}
        for row in sorted(rows, key=lambda row: row.id):
            ending = good[row.id, row.attempt]
            named = [Output(id=new_id("out"), job_id=row.id, **asdict(output)) for output in ending.outputs]
            ended[row.id, row.attempt] = to_job(row, named)
            if ending.model is not None:
                entry = {"job_id": row.id, "entry": dict(ending.model.entry), "created_at": now}
                dialects.upsert(connection, models, {"tenant": row.tenant, "id": ending.model.id}, entry)
        if named := [output for job in ended.values() for output in job.outputs]:
            bulk_insert.insert(connection, outputs, list(map(asdict, named)))
        return ended

    def _end(self, connection: Connection, finish: Finish, now: float) -> Row[Any] | None:
        """Take an attempt that went otherwise out of ``running``; None when it was not this worker's any
        more."""
        step, values = _step_of(finish.ending)
        held = sa.select(jobs).where(
            jobs.c.id == finish.job_id, jobs.c.attempt == finish.attempt, status_in(Status.RUNNING)
        )
        if (row := connection.execute(held.with_for_update()).one_or_none()) is None:
            return None
        if step == "hand-back":
            values["attempts"] = row.attempts - 1
        elif step == "back-off":
            if row.attempts < row.max_attempts and row.cancel_requested_at is None:
                values["due_at"] = now + self._backoff.delay(row.attempts)
            else:
                step = "fail"
        attempts.note(
            connection,
            row,
            _HOW[type(finish.ending)],
            now=now,
            error=values.get("error"),
            traceback=values.get("traceback"),
        )
        return transitions.apply_to_one(
            connection, step, finish.job_id, now=now, fence=finish.attempt, **values
        )


def _step_of(ending: Ending) -> tuple[str, dict[str, Any]]:
    match ending:
        case Succeeded():
            return "succeed", {"result": ending.result, "load_seconds": ending.load_seconds, "error": None}
        case Failed():
            message = ending.message[:MAX_MESSAGE]
            error = {"type": ending.type, "message": message, "retryable": ending.retryable}
            return "back-off" if ending.retryable else "fail", {
                "error": error,
                "traceback": ending.traceback and ending.traceback[-MAX_TRACEBACK:],
            }
        case StoppedOnRequest():
            return "stop", {"error": CANCELED_WHILE_RUNNING}
        case HandedBack():
            return "hand-back", {}
