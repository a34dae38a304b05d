"""Jobs as workers see them, on every database."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest

from shared.catalog.trained import TrainedModels
from shared.db.engine import Database
from shared.errors import LeaseLost
from shared.jobs.backoff import Backoff
from shared.jobs.entities import Failed, Finish, HandedBack, Job, NewModel, StoppedOnRequest, Succeeded
from shared.jobs.leases import Leases
from shared.jobs.reaper import Reaper
from shared.jobs.store import JobStore
from shared.states import Status
from tests.jobs.factory import new_job, new_output, submit
from tests.servers import wait_until

LEASE = 30.0


@pytest.fixture
def leases(database: Database) -> Leases:
    return Leases(database, lease_seconds=LEASE, backoff=Backoff(base=0.05))


def claim_when_due(leases: Leases, reaper: Reaper) -> Job:
    wait_until(reaper.wake_due, what="the retry to be due")
    [job] = leases.claim("wrk_1", "default")
    return job


@pytest.fixture
def short(database: Database) -> Leases:
    """Leases that run out at once."""
    return Leases(database, lease_seconds=-1)


def end(leases: Leases, job: Job, ending: object) -> Job | LeaseLost:
    [answer] = leases.finish([Finish(job.id, job.attempt, ending)])  # type: ignore[arg-type]
    return answer


def test_attempts_that_end_together_are_fenced_each_by_itself(store: JobStore, leases: Leases) -> None:
    for _ in range(4):
        submit(store)
    good, other, stale, bad = leases.claim("wrk_1", "default", limit=4)
    answers = leases.finish(
        [
            Finish(bad.id, bad.attempt, Failed(type="internal", message="no")),
            Finish(stale.id, stale.attempt + 1, Succeeded(outputs=(new_output(),))),
            Finish(other.id, other.attempt, Succeeded(load_seconds=0.5, result={"text": "é"})),
            Finish(good.id, good.attempt, Succeeded(outputs=(new_output(0), new_output(1)))),
        ]
    )
    assert [one.status if isinstance(one, Job) else type(one) for one in answers] == [
        Status.FAILED,
        LeaseLost,
        Status.SUCCEEDED,
        Status.SUCCEEDED,
    ]
    assert [store.get(job.id) for job in (bad, other, good)] == [answers[0], answers[2], answers[3]]
    seen = store.get(other.id)
    assert (seen.load_seconds, seen.result, seen.outputs) == (0.5, {"text": "é"}, ())
    seen = store.get(good.id)
    assert (seen.load_seconds, seen.result, len(seen.outputs)) == (None, None, 2)
    assert store.get(stale.id) == stale


def test_the_most_urgent_job_is_claimed_first_then_the_oldest(store: JobStore, leases: Leases) -> None:
    made = [submit(store, priority=priority).id for priority in (5, 9, 5, 0, 9)]
    claimed = [job.id for job in leases.claim("wrk_1", "default", limit=4)]
    assert claimed == [made[1], made[4], made[0], made[2]]


def test_a_claim_raises_the_attempt_and_leaves_other_queues_alone(store: JobStore, leases: Leases) -> None:
    submit(store, queue="training")
    assert leases.claim("wrk_1", "default") == []
    [job] = leases.claim("wrk_1", "training")
    assert (job.status, job.attempt, job.attempts, job.worker) == (Status.RUNNING, 1, 1, "wrk_1")
    assert leases.claim("wrk_2", "training") == []


def test_workers_that_claim_at_once_never_get_the_same_job(store: JobStore, leases: Leases) -> None:
    store.submit([new_job() for _ in range(120)])
    seen: Counter[str] = Counter()
    lock = threading.Lock()

    def work(worker: int) -> None:
        while jobs := leases.claim(f"wrk_{worker}", "default", limit=3):
            with lock:
                seen.update(job.id for job in jobs)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 120
    assert set(seen.values()) == {1}


def test_success_names_the_outputs_and_the_trained_model(
    database: Database, store: JobStore, leases: Leases
) -> None:
    submit(store)
    [job] = leases.claim("wrk_1", "default")
    ending = Succeeded(
        outputs=(new_output(0), new_output(1)),
        result={"text": "done"},
        load_seconds=0.5,
        model=NewModel(id="my-model", entry={"task": "x"}),
    )
    finished = end(leases, job, ending)
    assert isinstance(finished, Job)
    assert finished == store.get(job.id)
    assert [output.index for output in finished.outputs] == [0, 1]
    assert (finished.result, finished.load_seconds, finished.error) == ({"text": "done"}, 0.5, None)
    model = TrainedModels(database).get("my-model", "default")
    assert model is not None
    assert (model.job_id, model.entry) == (job.id, {"task": "x"})


def test_the_same_attempt_cannot_end_twice(store: JobStore, leases: Leases) -> None:
    submit(store)
    [job] = leases.claim("wrk_1", "default")
    assert isinstance(end(leases, job, Succeeded(outputs=(new_output(),))), Job)
    assert isinstance(end(leases, job, Succeeded(outputs=(new_output(),))), LeaseLost)
    assert len(store.get(job.id).outputs) == 1


def test_a_worker_back_from_the_dead_changes_nothing(
    store: JobStore, short: Leases, leases: Leases, reaper: Reaper
) -> None:
    submit(store)
    [old] = short.claim("wrk_dead", "default")
    [back] = reaper.reap()
    assert (back.status, back.attempts) == (Status.QUEUED, 1)
    [new] = leases.claim("wrk_live", "default")
    assert new.attempt == 2
    assert isinstance(end(leases, old, Succeeded(outputs=(new_output(),))), LeaseLost)
    assert leases.renew("wrk_dead", {old.id: old.attempt}, {}).lost == {old.id}
    assert leases.renew("wrk_live", {new.id: new.attempt}, {}).lost == frozenset()
    assert store.get(old.id).outputs == ()


def test_one_bad_finish_does_not_hold_up_the_others(store: JobStore, leases: Leases) -> None:
    store.submit([new_job(), new_job()])
    first, second = leases.claim("wrk_1", "default", limit=2)
    answers = leases.finish(
        [Finish(second.id, 99, Succeeded()), Finish(first.id, first.attempt, Succeeded())]
    )
    assert [type(answer) for answer in answers] == [LeaseLost, Job]


def test_renewing_notes_progress_and_tells_of_cancels(store: JobStore, leases: Leases) -> None:
    store.submit([new_job(), new_job()])
    first, second = leases.claim("wrk_1", "default", limit=2)
    store.cancel(second.id)
    renewal = leases.renew("wrk_1", {first.id: 1, second.id: 1}, {first.id: {"step": 3}})
    assert (renewal.lost, renewal.canceled) == (frozenset(), {second.id})
    assert store.get(first.id).progress == {"step": 3}
    stopped = end(leases, second, StoppedOnRequest())
    assert isinstance(stopped, Job)
    assert (stopped.status, stopped.error and stopped.error["type"]) == (Status.CANCELED, "canceled")


def test_progress_of_a_lost_attempt_is_not_noted(
    store: JobStore, short: Leases, leases: Leases, reaper: Reaper
) -> None:
    submit(store)
    [old] = short.claim("wrk_1", "default")
    reaper.reap()
    leases.claim("wrk_1", "default")  # the same worker holds it again, on another attempt
    renewal = leases.renew("wrk_1", {old.id: old.attempt}, {old.id: {"step": 9}})
    assert renewal.lost == {old.id}
    assert store.get(old.id).progress is None


def test_a_retryable_failure_runs_again_until_its_attempts_are_used_up(
    store: JobStore, leases: Leases, reaper: Reaper
) -> None:
    submit(store, max_attempts=2)
    failure = Failed(type="out-of-memory", message="too big", retryable=True, traceback="secret")
    [job] = leases.claim("wrk_1", "default")
    again = end(leases, job, failure)
    assert isinstance(again, Job)
    assert (again.status, again.shown_status) == (Status.SCHEDULED, Status.QUEUED)
    job = claim_when_due(leases, reaper)
    over = end(leases, job, failure)
    assert isinstance(over, Job)
    assert (over.status, over.attempts) == (Status.FAILED, 2)
    assert over.error == {"type": "out-of-memory", "message": "too big", "retryable": True}


def test_a_failure_that_cannot_pass_ends_the_job_at_once(store: JobStore, leases: Leases) -> None:
    submit(store)
    [job] = leases.claim("wrk_1", "default")
    over = end(leases, job, Failed(type="invalid-input", message="no"))
    assert isinstance(over, Job)
    assert (over.status, over.attempts) == (Status.FAILED, 1)


def test_a_job_handed_back_keeps_its_attempts(store: JobStore, leases: Leases) -> None:
    submit(store, max_attempts=1)
    [job] = leases.claim("wrk_1", "default")
    back = end(leases, job, HandedBack())
    assert isinstance(back, Job)
    assert (back.status, back.attempts, back.attempt) == (Status.QUEUED, 0, 1)
    [job] = leases.claim("wrk_2", "default")
    assert (job.attempts, job.attempt) == (1, 2)


def test_a_job_that_kills_its_workers_is_failed_as_worker_lost(
    store: JobStore, short: Leases, reaper: Reaper
) -> None:
    job = submit(store, max_attempts=3)
    for attempt in range(1, 4):
        short.claim(f"wrk_{attempt}", "default")
        reaper.reap()
    ended = store.get(job.id)
    assert (ended.status, ended.attempts) == (Status.FAILED, 3)
    assert ended.error is not None
    assert ended.error["type"] == "worker-lost"


def test_a_job_that_only_waited_in_a_worker_that_died_keeps_its_attempts(
    store: JobStore, leases: Leases, reaper: Reaper
) -> None:
    store.submit([new_job(max_attempts=1), new_job(max_attempts=2), new_job()])
    waiting, computing, canceled = leases.claim("wrk_dead", "default", limit=3)
    elsewhere = submit(store)
    leases.claim("wrk_live", "default")
    store.cancel(canceled.id)
    back = {job.id: job for job in reaper.reap_worker("wrk_dead", {computing.id})}
    assert (back[waiting.id].status, back[waiting.id].attempts) == (Status.QUEUED, 0)
    assert (back[computing.id].status, back[computing.id].attempts) == (Status.QUEUED, 1)
    assert back[canceled.id].status is Status.CANCELED
    assert store.get(elsewhere.id).status is Status.RUNNING
    assert isinstance(end(leases, waiting, Succeeded()), LeaseLost)


@pytest.mark.parametrize("known", [True, False], ids=["reported dead", "lease expired"])
def test_a_training_is_not_charged_with_a_death_beside_another_job_more_often_than_it_may_be_tried(
    store: JobStore, short: Leases, known: bool, reaper: Reaper
) -> None:
    training = submit(store, queue="training", max_attempts=2)
    counted = []
    for _ in range(4):
        beside = submit(store, max_attempts=1)
        held = [*short.claim("wrk_dead", "training"), *short.claim("wrk_dead", "default")]
        assert {job.id for job in held} == {training.id, beside.id}
        if known:
            reaper.reap_worker("wrk_dead", {job.id for job in held})
        else:
            reaper.reap()
        assert store.get(beside.id).status is Status.FAILED
        counted.append(store.get(training.id).attempts)
    assert counted == [0, 0, 1, 2] and store.get(training.id).status is Status.FAILED


def test_a_training_that_was_alone_when_its_worker_died_is_charged(
    store: JobStore, short: Leases, reaper: Reaper
) -> None:
    training = submit(store, queue="training")
    submit(store)
    short.claim("wrk_dead", "training")
    short.claim("wrk_other", "default")
    assert len(reaper.reap()) == 2
    assert store.get(training.id).attempts == 1


def test_a_canceled_job_whose_worker_died_is_canceled(store: JobStore, short: Leases, reaper: Reaper) -> None:
    job = submit(store)
    short.claim("wrk_1", "default")
    store.cancel(job.id)
    reaper.reap()
    assert store.get(job.id).status is Status.CANCELED


def test_a_renewed_lease_is_not_reaped(
    store: JobStore, short: Leases, leases: Leases, reaper: Reaper
) -> None:
    submit(store)
    [job] = short.claim("wrk_1", "default")
    leases.renew("wrk_1", {job.id: job.attempt}, {})
    assert reaper.reap() == []


def test_a_due_job_is_queued_and_a_late_one_expires(store: JobStore, leases: Leases, reaper: Reaper) -> None:
    now = submit(store, tenant="other").created_at
    due = submit(store, run_at=now + 1)
    late = submit(store, expires_in=1, priority=9)
    assert reaper.wake_due() == []
    assert reaper.expire() == []
    time.sleep(1.2)
    assert [job.id for job in reaper.wake_due()] == [due.id]
    assert [job.id for job in reaper.expire()] == [late.id]
    assert store.get(late.id).status is Status.EXPIRED
