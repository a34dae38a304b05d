"""The registry of workers, and the named locks that they hold, on every database."""

from __future__ import annotations

import time

import pytest

from shared.db.engine import Database
from shared.db.named_locks import NamedLocks
from shared.jobs.leases import Leases
from shared.jobs.store import JobStore
from shared.jobs.workers import Worker, WorkerRegistry
from tests.jobs.factory import submit


@pytest.fixture
def locks(database: Database) -> NamedLocks:
    return NamedLocks(database)


@pytest.fixture
def registry(database: Database) -> WorkerRegistry:
    return WorkerRegistry(database)


def test_a_lock_has_one_holder_until_its_time_is_over(locks: NamedLocks) -> None:
    assert locks.try_lock("upkeep", "wrk_1", 0.2)
    assert not locks.try_lock("upkeep", "wrk_2", 0.2)
    assert locks.try_lock("upkeep", "wrk_1", 0.2)
    time.sleep(0.3)
    assert locks.try_lock("upkeep", "wrk_2", 0.2)


def test_a_worker_that_leaves_lets_go_of_its_locks_and_of_no_others(
    locks: NamedLocks, registry: WorkerRegistry
) -> None:
    assert locks.try_lock("upkeep", "wrk_1", 600) and locks.try_lock("retention", "wrk_2", 600)
    registry.remove("wrk_1")
    assert locks.try_lock("upkeep", "wrk_3", 600) and not locks.try_lock("retention", "wrk_3", 600)


def test_workers_are_shown_with_what_they_run_until_they_fall_silent(
    store: JobStore, leases: Leases, registry: WorkerRegistry
) -> None:
    worker = Worker(
        id="wrk_1",
        host="h",
        pid=1,
        device="cpu",
        slots=2,
        queues=("default",),
        models=("fake",),
        memory={"used": 1},
    )
    registry.heartbeat(worker)
    registry.heartbeat(worker)
    job = submit(store)
    leases.claim("wrk_1", "default")
    [seen] = registry.alive(within=60)
    assert (seen.id, seen.models, seen.memory, seen.running) == ("wrk_1", ("fake",), {"used": 1}, (job.id,))
    assert registry.alive(within=-1) == []
    assert registry.remove_silent(-1) == 1
    assert registry.alive(within=60) == []
