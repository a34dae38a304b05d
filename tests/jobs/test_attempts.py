"""Attempts that end other than well leave a row, in the transaction that ends them, on every database."""

from __future__ import annotations

import pytest

from shared.db.engine import Database
from shared.errors import LeaseLost
from shared.jobs.attempts import Attempt, Attempts
from shared.jobs.entities import Ending, Failed, Finish, HandedBack, Job, StoppedOnRequest, Succeeded
from shared.jobs.leases import Leases
from shared.jobs.reaper import Reaper
from shared.jobs.store import JobStore
from shared.jobs.workers import Worker, WorkerRegistry
from shared.states import Status
from tests.jobs.factory import submit

PASSING = Failed(type="out-of-memory", message="too big", retryable=True, traceback="secret")


@pytest.fixture
def history(database: Database) -> Attempts:
    return Attempts(database)


@pytest.fixture
def short(database: Database) -> Leases:
    """Leases that have run out as soon as they are given."""
    return Leases(database, lease_seconds=-1)


def end(leases: Leases, ending: Ending, worker: str = "wrk_1") -> Job:
    """Claim the only job there is, and let it end."""
    [job] = leases.claim(worker, "default")
    [ended] = leases.finish([Finish(job.id, job.attempt, ending)])
    assert isinstance(ended, Job)
    return ended


def only(history: Attempts, job: Job) -> Attempt:
    [attempt] = history.of([job.id])[job.id]
    return attempt


def test_a_failure_is_kept_with_its_worker_host_times_error_and_traceback(
    database: Database, store: JobStore, leases: Leases, history: Attempts
) -> None:
    WorkerRegistry(database).heartbeat(
        Worker(id="wrk_1", host="far", pid=1, device="cpu", slots=1, queues=("default",))
    )
    job = submit(store, max_attempts=1)
    ended = end(leases, PASSING)
    found = only(history, job)
    assert (found.attempt, found.worker, found.host, found.how) == (1, "wrk_1", "far", "failed")
    assert found.error == {"type": "out-of-memory", "message": "too big", "retryable": True}
    assert found.traceback == "secret"
    assert (found.started_at, found.ended_at) == (ended.started_at, ended.finished_at)


def test_every_attempt_of_a_job_has_its_own_row(store: JobStore, leases: Leases, history: Attempts) -> None:
    job = submit(store)
    end(leases, HandedBack(), "wrk_1")
    end(leases, HandedBack(), "wrk_2")
    assert end(leases, Failed(type="internal", message="broke"), "wrk_3").attempts == 1
    found = history.of([job.id])[job.id]
    assert [(one.attempt, one.worker, one.how) for one in found] == [
        (1, "wrk_1", "handed-back"),
        (2, "wrk_2", "handed-back"),
        (3, "wrk_3", "failed"),
    ]
    assert [one.error is None for one in found] == [True, True, False]


def test_an_attempt_that_succeeds_leaves_none(store: JobStore, leases: Leases, history: Attempts) -> None:
    job = submit(store)
    end(leases, Succeeded())
    assert history.of([job.id]) == {job.id: []}


def test_one_that_was_canceled_says_so(store: JobStore, leases: Leases, history: Attempts) -> None:
    job = submit(store)
    end(leases, StoppedOnRequest())
    assert (only(history, job).how, store.get(job.id).status) == ("canceled", Status.CANCELED)


def test_a_worker_that_fell_silent_is_named(
    store: JobStore, short: Leases, history: Attempts, reaper: Reaper
) -> None:
    job = submit(store)
    short.claim("wrk_1", "default")
    reaper.reap()
    found = only(history, job)
    assert (found.worker, found.host, found.how) == ("wrk_1", None, "worker-lost")
    assert found.error is not None and found.error["type"] == "worker-lost"


def test_what_a_dead_worker_had_begun_is_lost_and_the_rest_handed_back(
    store: JobStore, leases: Leases, history: Attempts, reaper: Reaper
) -> None:
    begun, waited = submit(store), submit(store)
    leases.claim("wrk_1", "default", limit=2)
    reaper.reap_worker("wrk_1", {begun.id})
    assert (only(history, begun).how, only(history, waited).how) == ("worker-lost", "handed-back")


def test_who_lost_the_lease_writes_nothing(
    store: JobStore, short: Leases, history: Attempts, reaper: Reaper
) -> None:
    job = submit(store)
    [late] = short.claim("wrk_1", "default")
    reaper.reap()
    [answer] = short.finish([Finish(late.id, late.attempt, PASSING)])
    assert isinstance(answer, LeaseLost)
    assert only(history, job).how == "worker-lost"


def test_the_history_goes_with_the_job(store: JobStore, leases: Leases, history: Attempts) -> None:
    job = submit(store, max_attempts=1)
    end(leases, PASSING)
    store.delete(job.id)
    assert history.of([job.id]) == {job.id: []}
