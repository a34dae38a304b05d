"""Jobs as workers see them: claim, renew, finish, and what upkeep does about those who died."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from functools import cache, partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Row

from shared.db import bulk_insert
from shared.db.engine import Database
from shared.db.tables import jobs, locks, models, outputs, ready, status_in, workers
from shared.errors import LeaseLost
from shared.ids import new_id
from shared.jobs import attempts, notifications, transitions
from shared.jobs.backoff import Backoff
from shared.jobs.entities import (
    TRAINING_QUEUE,
    Ending,
    Failed,
    Finish,
    HandedBack,
    Job,
    Output,
    Renewal,
    StoppedOnRequest,
    Succeeded,
    Worker,
)
from shared.jobs.scheduling import claims, concurrency_limits
from shared.jobs.scheduling.fair_queueing import Shares
from shared.states import Status

#: of a worker of which nothing more is known
_DIED = "died or fell silent"
#: jobs woken, or expired, in one transaction
_WAKE = 1000

#: characters of what went wrong that are kept: from the beginning, and of a traceback from the end
_MOST_SAID, _MOST_TRACEBACK = 2000, 20_000

_CANCELED = {"type": "canceled", "message": "canceled while it ran", "retryable": False}
_HOW: Mapping[type[Ending], attempts.How] = {
    Failed: "failed",
    StoppedOnRequest: "canceled",
    HandedBack: "handed-back",
}


class Leases:
    """A worker's hold on jobs. Every method is one transaction.

    What a worker or upkeep acts upon is durable before it does: a claim that a crashed server forgot would
    give one attempt to two workers, and the files of one would be removed as those of the other."""

    def __init__(
        self,
        database: Database,
        lease_seconds: float,
        backoff: Backoff | None = None,
        most: concurrency_limits.Most = concurrency_limits.unlimited,
    ) -> None:
        """``most``: what a tenant may have running, see ``caps``."""
        self._database = database
        self._shares = Shares(database.dialect)
        self._seconds = lease_seconds
        self._backoff = backoff or Backoff()
        self._most = most

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
                self._database, connection, queue, take, limit=limit, resident=resident, most=self._most
            )
        return list(map(transitions.record, rows))

    def renew(
        self, worker_id: str, held: Mapping[str, int], progress: Mapping[str, Mapping[str, Any]]
    ) -> Renewal:
        """Extend the leases of ``held`` (id → attempt) and note their progress.

        The answer says which were lost and which shall stop."""
        if not held:
            return Renewal(frozenset(), frozenset())
        with self._database.write(durable=False) as connection:
            transitions.lock(self._database, connection, list(held))
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
                transitions.lock(self._database, connection, [finish.job_id for finish in finishes])
            now = self._database.now(connection)
            ended = self._succeed(connection, finishes, now)
            for finish in finishes:
                if not isinstance(finish.ending, Succeeded) and (row := self._end(connection, finish, now)):
                    ended[finish.job_id, finish.attempt] = transitions.record(row)
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
            ended[row.id, row.attempt] = transitions.record(row, named)
            if ending.model is not None:
                entry = {"job_id": row.id, "entry": dict(ending.model.entry), "created_at": now}
                self._upsert(connection, models, {"tenant": row.tenant, "id": ending.model.id}, entry)
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

    def reap(self) -> list[Job]:
        """Take back the jobs whose lease ran out: queued again, or ended when that was the last attempt."""
        expired = sa.select(jobs).where(status_in(Status.RUNNING), jobs.c.lease_until < sa.bindparam("now"))
        if self._database.dialect == "postgresql":
            expired = expired.with_for_update(skip_locked=True)
        with self._database.write(durable=self._database.is_server) as connection:
            now = self._database.now(connection)
            rows = connection.execute(expired.order_by(jobs.c.id), {"now": now}).all()
            spared = _spared(rows)
            return [job for row in rows for job in self._lost(connection, row, now, spared=row.id in spared)]

    def bury(self, worker_id: str, begun: Collection[str], *, why: str = _DIED) -> list[Job]:
        """Take back the jobs of a worker that is known to be dead, or about to end, as ``reap`` does.

        Those not among ``begun`` had no part in its death: their attempt does not count. ``why`` is what the
        others' error says of the worker."""
        with self._database.write(durable=self._database.is_server) as connection:
            now = self._database.now(connection)
            held = sa.select(jobs).where(status_in(Status.RUNNING), jobs.c.worker == worker_id)
            rows = connection.execute(held.order_by(jobs.c.id)).all()
            spared = _spared([row for row in rows if row.id in begun])
            spared |= {row.id for row in rows if row.id not in begun}
            return [
                job
                for row in rows
                for job in self._lost(connection, row, now, spared=row.id in spared, why=why)
            ]

    def _lost(
        self, connection: Connection, row: Row[Any], now: float, *, spared: bool, why: str = _DIED
    ) -> list[Job]:
        """Take a job from the worker it died with; empty when somebody was faster. The attempt of one that is
        ``spared`` does not count."""
        if spared and row.cancel_requested_at is None:
            back = transitions.apply_to_one(
                connection, "hand-back", row.id, now=now, fence=row.attempt, attempts=row.attempts - 1
            )
            if back is None:
                return []
            attempts.note(connection, row, "handed-back", now=now)
            return [transitions.record(back)]
        lost = {
            "type": "worker-lost",
            "message": f"worker {row.worker} {why} in attempt {row.attempts} of {row.max_attempts}",
            "retryable": True,
        }
        how: attempts.How = "worker-lost"
        if row.cancel_requested_at is not None:
            step, error, how = "stop", _CANCELED, "canceled"
        elif row.attempts >= row.max_attempts:
            step, error = "fail", lost
        else:
            step, error = "try-again", lost
        this = jobs.c.id == row.id
        moved = transitions.apply(connection, step, this, now=now, fence=row.attempt, error=error)
        if moved:
            attempts.note(connection, row, how, now=now, error=error)
        return list(map(transitions.record, moved))

    def wake_due(self) -> list[Job]:
        """Queue the scheduled jobs whose time has come, for the first or a further attempt."""
        with self._database.write(durable=False) as connection:
            now = self._database.now(connection)
            due = connection.execute(_due(self._database.dialect), {"now": now}).all()
            # one that waits to be tried again has its place already
            self._shares.tag(connection, [row for row in due if row.tag is None])
            these = jobs.c.id.in_([row.id for row in due])
            rows = transitions.apply(connection, "wake", these, now=now) if due else []
        return list(map(transitions.record, rows))

    def expire(self) -> list[Job]:
        """End the jobs that did not start in time."""
        with self._database.write(durable=self._database.is_server) as connection:
            now = self._database.now(connection)
            late = connection.execute(_late(self._database.dialect), {"now": now}).scalars().all()
            rows = transitions.apply(connection, "expire", jobs.c.id.in_(late), now=now) if late else []
        return list(map(transitions.record, rows))

    def try_lock(self, name: str, holder: str, seconds: float) -> bool:
        """Hold a named lock for so long; False while another holds it. The holder may renew it."""
        with self._database.write(durable=False) as connection:
            now = self._database.now(connection)
            taken = connection.execute(
                sa.update(locks)
                .where(locks.c.name == name, sa.or_(locks.c.until < now, locks.c.holder == holder))
                .values(holder=holder, until=now + seconds)
            ).rowcount
            if taken:
                return True
            dialect = postgresql if self._database.dialect == "postgresql" else sqlite
            new = {"name": name, "holder": holder, "until": now + seconds}
            insert = dialect.insert(locks).on_conflict_do_nothing().returning(locks.c.name)
            return connection.execute(insert, new).first() is not None

    def heartbeat(self, worker: Worker) -> None:
        """Say that this worker lives and what it has; its times are the database's."""
        with self._database.write(durable=False) as connection:
            now = self._database.now(connection)
            seen = {
                "host": worker.host,
                "pid": worker.pid,
                "device": worker.device,
                "slots": worker.slots,
                "queues": list(worker.queues),
                "models": list(worker.models),
                "loading": worker.loading,
                "memory": dict(worker.memory),
                "pace": dict(worker.pace),
                "forwards": dict(worker.forwards),
                "trouble": worker.trouble,
                "last_seen": now,
            }
            self._upsert(connection, workers, {"id": worker.id}, seen, started_at=now)

    def forget(self, worker_id: str) -> None:
        """Remove a worker that leaves, or is known to be dead, and let go of the locks that it held."""
        with self._database.write(durable=False) as connection:
            connection.execute(sa.delete(workers).where(workers.c.id == worker_id))
            connection.execute(sa.delete(locks).where(locks.c.holder == worker_id))

    def forget_silent(self, seconds: float) -> int:
        """Remove workers that gave no sign of life for so long; returns how many."""
        with self._database.write(durable=False) as connection:
            now = self._database.now(connection)
            return connection.execute(sa.delete(workers).where(workers.c.last_seen < now - seconds)).rowcount

    def workers(self, *, alive_within: float) -> list[Worker]:
        """The workers seen in the last so many seconds, each with the jobs it runs, oldest first."""
        with self._database.read() as connection:
            now = self._database.now(connection)
            alive = sa.select(workers).where(workers.c.last_seen >= now - alive_within).order_by(workers.c.id)
            rows = list(connection.execute(alive))
            held = (
                sa.select(jobs.c.worker, jobs.c.id, jobs.c.queue)
                .where(status_in(Status.RUNNING))
                .order_by(jobs.c.id)
            )
            running: dict[str | None, dict[str, str]] = {}
            for worker_id, job_id, queue in connection.execute(held):
                running.setdefault(worker_id, {})[job_id] = queue
        return [
            Worker(
                id=row.id,
                host=row.host,
                pid=row.pid,
                device=row.device,
                slots=row.slots,
                queues=tuple(row.queues),
                models=tuple(row.models),
                loading=row.loading,
                memory=row.memory,
                forwards=row.forwards,
                trouble=row.trouble,
                started_at=row.started_at,
                last_seen=row.last_seen,
                pace=row.pace or {},
                running=tuple(running.get(row.id, ())),
                busy=Counter(running.get(row.id, {}).values()),
            )
            for row in rows
        ]

    def _upsert(
        self,
        connection: Connection,
        table: sa.Table,
        key: dict[str, Any],
        values: dict[str, Any],
        **first: Any,
    ) -> None:
        dialect = postgresql if self._database.dialect == "postgresql" else sqlite
        insert = dialect.insert(table).values(**key, **values, **first)
        connection.execute(insert.on_conflict_do_update(index_elements=list(key), set_=values))


def _spared(lost: Collection[Row[Any]]) -> set[str]:
    """Those of jobs lost together that their workers' deaths shall not be counted against.

    A training runs for hours beside jobs of seconds, and would be charged with the death of every one that
    kills the worker; it goes on from its checkpoint. As a training may be what kills, it is spared as often
    as it may be tried, and no more."""
    crowded = {row.worker for row in lost if row.queue != TRAINING_QUEUE}
    return {
        row.id
        for row in lost
        if row.queue == TRAINING_QUEUE
        and row.worker in crowded
        and row.attempt - row.attempts < row.max_attempts
    }


@cache
def _due(dialect: str) -> sa.Executable:
    """The scheduled jobs whose time has come, the first of them first, as many as one round takes."""
    due = (
        sa.select(jobs.c.id, jobs.c.queue, jobs.c.priority, jobs.c.tenant, jobs.c.tag)
        .where(status_in(Status.SCHEDULED), ready, jobs.c.due_at <= sa.bindparam("now"))
        .order_by(jobs.c.due_at)
        .limit(_WAKE)
    )
    return due.with_for_update(skip_locked=True) if dialect == "postgresql" else due


@cache
def _late(dialect: str) -> sa.Executable:
    """The waiting jobs whose time is over. Those that somebody else writes to just now have another round."""
    late = sa.select(jobs.c.id).where(
        status_in(Status.QUEUED, Status.SCHEDULED), jobs.c.expires_at <= sa.bindparam("now")
    )
    late = late.order_by(jobs.c.id).limit(_WAKE)
    return late.with_for_update(skip_locked=True) if dialect == "postgresql" else late


def _step_of(ending: Ending) -> tuple[str, dict[str, Any]]:
    match ending:
        case Succeeded():
            return "succeed", {"result": ending.result, "load_seconds": ending.load_seconds, "error": None}
        case Failed():
            message = ending.message[:_MOST_SAID]
            error = {"type": ending.type, "message": message, "retryable": ending.retryable}
            return "back-off" if ending.retryable else "fail", {
                "error": error,
                "traceback": ending.traceback and ending.traceback[-_MOST_TRACEBACK:],
            }
        case StoppedOnRequest():
            return "stop", {"error": _CANCELED}
        case HandedBack():
            return "hand-back", {}
