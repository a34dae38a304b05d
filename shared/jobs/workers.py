"""The registry of workers: who is alive, what each has loaded, and which jobs it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa

from shared.db import dialects, named_locks
from shared.db.engine import Database
from shared.db.tables import jobs, status_in, workers
from shared.jobs.entities import TRAINING_QUEUE
from shared.states import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One worker process. Times are seconds since 1970, sizes are bytes."""

    id: str
    host: str
    pid: int
    device: str
    slots: int
    queues: tuple[str, ...]
    models: tuple[str, ...] = ()
    #: the model that is being loaded now
    loading: str | None = None
    memory: Mapping[str, int] = field(default_factory=dict)
    #: by queue, the moving average of the seconds that a job holds a slot
    pace: Mapping[str, float] = field(default_factory=dict)
    #: what its kiln computed since it started: ``forwards``, of these ``shared``, their ``rows``, …
    forwards: Mapping[str, int] = field(default_factory=dict)
    #: why it takes no jobs now, for operators; None where it takes them
    trouble: str | None = None
    started_at: float = 0.0
    last_seen: float = 0.0
    #: the ids of the jobs that it holds
    running: tuple[str, ...] = ()
    #: by queue, how many of them there are
    busy: Mapping[str, int] = field(default_factory=dict)

    def slots_for(self, queue: str) -> int:
        """How many jobs of a queue it runs at once. Training has one slot of its own, beside the others."""
        if queue not in self.queues:
            return 0
        return 1 if queue == TRAINING_QUEUE else self.slots


class WorkerRegistry:
    """The rows of ``workers``. Every method is one transaction, and raises Unavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def heartbeat(self, worker: Worker) -> None:
        """Note that this worker is alive and what it has; its times are the database's."""
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
            dialects.upsert(connection, workers, {"id": worker.id}, seen, started_at=now)

    def remove(self, worker_id: str) -> None:
        """Remove a worker that leaves, or is known to be dead, and release the named locks that it held."""
        with self._database.write(durable=False) as connection:
            connection.execute(sa.delete(workers).where(workers.c.id == worker_id))
            named_locks.release_all(connection, worker_id)

    def remove_silent(self, seconds: float) -> int:
        """Remove the workers whose last heartbeat is older than so many seconds; returns how many."""
        with self._database.write(durable=False) as connection:
            now = self._database.now(connection)
            return connection.execute(sa.delete(workers).where(workers.c.last_seen < now - seconds)).rowcount

    def alive(self, *, within: float) -> list[Worker]:
        """The workers with a heartbeat in the last so many seconds, each with the jobs it runs, oldest
        first."""
        with self._database.read() as connection:
            now = self._database.now(connection)
            alive = sa.select(workers).where(workers.c.last_seen >= now - within).order_by(workers.c.id)
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
