"""Attempts that failed and may be repeated wait longer and longer, and cost claims nothing meanwhile."""

from __future__ import annotations

import statistics

import pytest

from shared.db.engine import Database
from shared.jobs.backoff import Backoff
from shared.jobs.entities import Failed, Finish, HandedBack, Job
from shared.jobs.leases import Leases
from shared.jobs.reaper import Reaper
from shared.jobs.store import JobStore
from shared.states import Status
from tests.jobs.factory import submit
from tests.servers import wait_until

FAILURE = Failed(type="out-of-memory", message="too big", retryable=True)


@pytest.fixture
def slow(database: Database) -> Leases:
    """Retries that are due long after the test."""
    return Leases(database, lease_seconds=30, backoff=Backoff(base=1e6, cap=1e9))


def fail(leases: Leases, failure: Failed = FAILURE) -> Job:
    """Claim the only job there is, and let it fail."""
    [job] = leases.claim("wrk_1", "default")
    [ended] = leases.finish([Finish(job.id, job.attempt, failure)])
    assert isinstance(ended, Job)
    return ended


def test_the_longest_wait_doubles_up_to_its_cap() -> None:
    backoff = Backoff(base=2.0, cap=30.0)
    assert [backoff.most(attempts) for attempts in (1, 2, 3, 4, 5, 6, 100_000)] == [2, 4, 8, 16, 30, 30, 30]


def test_waits_are_spread_over_all_of_their_range() -> None:
    waits = [Backoff(base=8.0).delay(1) for _ in range(2000)]
    assert 0 <= min(waits) < 0.5 and 7.5 < max(waits) <= 8
    assert statistics.mean(waits) == pytest.approx(4.0, abs=0.3)


def test_a_job_that_waits_for_its_next_attempt_is_not_there_for_claims(
    store: JobStore, slow: Leases, reaper: Reaper
) -> None:
    job = submit(store)
    waiting = fail(slow)
    assert (waiting.status, waiting.shown_status, waiting.attempts) == (Status.SCHEDULED, Status.QUEUED, 1)
    assert waiting.due_at is not None and waiting.due_at > job.created_at
    assert slow.claim("wrk_1", "default") == []
    assert reaper.wake_due() == []
    assert store.depths() == []


def test_clients_see_and_find_it_as_queued(store: JobStore, slow: Leases) -> None:
    job = submit(store, group="g")
    fail(slow)
    assert store.counts(group="g") == {"queued": 1}
    assert [found.id for found in store.list("default", status=Status.QUEUED).items] == [job.id]
    assert store.list("default", status=Status.SCHEDULED).items == ()


def test_it_is_queued_again_once_it_is_due(store: JobStore, database: Database, reaper: Reaper) -> None:
    quick = Leases(database, lease_seconds=30, backoff=Backoff(base=0.05))
    job = submit(store)
    due_at = fail(quick).due_at
    woken: list[Job] = []
    wait_until(lambda: woken.extend(reaper.wake_due()) or woken, what="the retry to be due")
    assert [(one.id, one.status, one.due_at) for one in woken] == [(job.id, Status.QUEUED, None)]
    [again] = quick.claim("wrk_2", "default")
    assert again.started_at is not None and due_at is not None and again.started_at >= due_at
    assert (again.attempt, again.attempts) == (2, 2)


def test_it_can_be_canceled_while_it_waits(store: JobStore, slow: Leases) -> None:
    job = submit(store)
    fail(slow)
    assert store.cancel(job.id).status is Status.CANCELED


def test_a_job_canceled_while_it_ran_is_not_tried_again(store: JobStore, slow: Leases) -> None:
    submit(store)
    [job] = slow.claim("wrk_1", "default")
    store.cancel(job.id)
    [ended] = slow.finish([Finish(job.id, job.attempt, FAILURE)])
    assert isinstance(ended, Job) and ended.is_terminal


def test_what_is_no_failure_of_the_job_waits_for_nothing(
    store: JobStore, slow: Leases, reaper: Reaper
) -> None:
    submit(store)
    [job] = slow.claim("wrk_1", "default")
    slow.finish([Finish(job.id, job.attempt, HandedBack())])
    [again] = slow.claim("wrk_2", "default")
    assert [lost.status for lost in reaper.reap_worker("wrk_2", {again.id})] == [Status.QUEUED]
    assert [job.attempt for job in slow.claim("wrk_3", "default")] == [3]
