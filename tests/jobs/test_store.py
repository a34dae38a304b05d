"""Jobs as clients see them, on every database."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from shared.db.engine import Database
from shared.db.tables import deliveries
from shared.errors import IdempotencyMismatch, InvalidInput, InvalidTransition, NotFound
from shared.jobs import cancellation
from shared.jobs.entities import Failed, Finish, Submitted, Succeeded
from shared.jobs.leases import Leases
from shared.jobs.store import JobStore
from shared.states import Status
from shared.webhooks.subscription import Webhook
from tests.jobs import plans
from tests.jobs.factory import new_job, new_output, submit


def run_to_success(leases: Leases, outputs: int = 1) -> str:
    [job] = leases.claim("wrk_1", "default")
    ending = Succeeded(outputs=tuple(new_output(i) for i in range(outputs)), result={"n": outputs})
    leases.finish([Finish(job.id, job.attempt, ending)])
    return job.id


def test_a_submitted_job_is_read_back_as_it_was_answered(store: JobStore) -> None:
    job = submit(store, priority=7, metadata={"who": "me"}, group="g", timeout=5.0, expires_in=60.0)
    assert store.get(job.id) == job
    assert (job.status, job.attempts, job.priority, job.group) == (Status.QUEUED, 0, 7, "g")
    assert job.expires_at == pytest.approx(job.created_at + 60)


def test_text_in_any_script_survives(store: JobStore) -> None:
    prompt = "яблоко 苹果 🍎 \\ \" ' \u2028"
    job = submit(store, input={"prompt": prompt})
    assert store.get(job.id).input == {"prompt": prompt}


def test_jobs_that_are_submitted_together_keep_what_each_has_of_its_own(store: JobStore) -> None:
    new = [
        new_job(input={"prompt": "100 %(id)s :id $1", "n": 10**100, "x": [1e-300, None, {"": True}]}),
        new_job(metadata={"long": 2**63, "'": '"'}, timeout=0.1, run_at=4e9, group="g", tenant="ann"),
        new_job(webhook=Webhook(url="https://example.com", events=("job.failed",)), expires_in=1 / 3),
    ]
    made = [answer.job for answer in store.submit(new) if isinstance(answer, Submitted)]
    assert [(job.input, job.metadata) for job in made] == [(one.input, one.metadata) for one in new]
    assert [store.get(job.id) for job in made] == made


def test_a_job_that_is_not_due_is_scheduled(store: JobStore) -> None:
    now = submit(store).created_at
    assert submit(store, run_at=now + 60).status is Status.SCHEDULED
    assert submit(store, run_at=now - 60).status is Status.QUEUED


def test_another_tenants_job_is_not_found(store: JobStore) -> None:
    job = submit(store, tenant="ann")
    for look in (store.get, store.cancel, store.delete, store.retry):
        with pytest.raises(NotFound):
            look(job.id, tenant="bob")
    assert store.get(job.id, tenant="ann") == job


def test_the_same_key_and_request_give_the_same_job(store: JobStore) -> None:
    first = submit(store, idempotency_key="k", fingerprint="a")
    again, other, elsewhere = store.submit(
        [
            new_job(idempotency_key="k", fingerprint="a"),
            new_job(idempotency_key="k", fingerprint="b"),
            new_job(idempotency_key="k", fingerprint="a", tenant="bob"),
        ]
    )
    assert again == Submitted(first, replayed=True)
    assert isinstance(other, IdempotencyMismatch)
    assert isinstance(elsewhere, Submitted)
    assert not elsewhere.replayed
    assert store.counts() == {"queued": 2}


def test_pages_show_every_job_once_newest_first(store: JobStore) -> None:
    made = [submit(store).id for _ in range(7)]
    submit(store, tenant="bob")
    seen, cursor = [], None
    while True:
        page = store.list("default", limit=3, cursor=cursor)
        seen += [job.id for job in page.items]
        submit(store)  # what comes in while somebody pages must not shift the pages
        if (cursor := page.next_cursor) is None:
            break
    assert seen == made[::-1]


def test_lists_are_filtered_by_each_field(store: JobStore, leases: Leases) -> None:
    apple = submit(store, group="g")
    done = run_to_success(leases)
    assert done == apple.id
    submit(store, task="train-gan", model="train-gan")
    assert [job.id for job in store.list("default", status=Status.SUCCEEDED).items] == [apple.id]
    assert [job.id for job in store.list("default", group="g").items] == [apple.id]
    assert [job.task for job in store.list("default", task="train-gan").items] == ["train-gan"]
    assert store.list("default", model="nothing").items == ()


def test_a_made_up_cursor_is_refused(store: JobStore) -> None:
    with pytest.raises(InvalidInput, match="next_cursor"):
        store.list("default", cursor="1 OR 1=1")


def test_a_queued_job_is_canceled_at_once_and_a_running_one_is_asked(store: JobStore, leases: Leases) -> None:
    queued = submit(store)
    assert store.cancel(queued.id).status is Status.CANCELED
    running = submit(store)
    leases.claim("wrk_1", "default")
    asked = store.cancel(running.id)
    assert (asked.status, asked.cancel_requested) == (Status.RUNNING, True)
    with pytest.raises(InvalidTransition, match="is canceled"):
        store.cancel(queued.id)


def test_a_group_is_canceled_whole_and_the_ended_stay_as_they_are(store: JobStore, leases: Leases) -> None:
    done = submit(store, group="g", priority=9)
    run_to_success(leases)
    waiting = submit(store, group="g")
    assert [job.id for job in store.cancel_group("g", tenant="default")] == [waiting.id]
    assert store.get(done.id).status is Status.SUCCEEDED
    assert store.counts(group="g", tenant="default") == {"succeeded": 1, "canceled": 1}
    with pytest.raises(NotFound):
        store.cancel_group("no such", tenant="default")


def test_a_large_group_is_canceled_by_a_few_transactions_and_every_webhook_is_noted(
    database: Database, store: JobStore, leases: Leases
) -> None:
    hook = Webhook(url="https://example.com/", events=("job.canceled",))
    store.submit([new_job(group="g", webhook=hook) for _ in range(cancellation.MAX_TOGETHER + 20)])
    running = leases.claim("wrk_1", "default", limit=3)
    submit(store, group="other")
    with plans.sent(database) as found:
        touched = store.cancel_group("g", tenant="default")
    assert len(found) < 30
    assert [job.id for job in touched] == sorted(job.id for job in touched)
    assert {job.id for job in touched if job.status is Status.RUNNING} == {job.id for job in running}
    assert all(job.cancel_requested or job.error for job in touched)
    assert store.counts(group="g") == {"running": 3, "canceled": cancellation.MAX_TOGETHER + 17}
    assert store.counts(group="other") == {"queued": 1}
    with database.read() as connection:
        told = set(connection.execute(sa.select(deliveries.c.job_id)).scalars())
    assert told == {job.id for job in touched if job.status is Status.CANCELED}
    again = store.cancel_group("g", tenant="default")
    assert [job.id for job in again] == sorted(job.id for job in running), "those are asked to stop once more"


def test_a_retry_is_a_new_job_that_names_the_old(store: JobStore, leases: Leases) -> None:
    job = submit(store, metadata={"who": "me"})
    with pytest.raises(InvalidTransition):
        store.retry(job.id)
    leases.claim("wrk_1", "default")
    leases.finish([Finish(job.id, 1, Failed(type="internal", message="broke"))])
    again = store.retry(job.id)
    assert again.id != job.id
    assert (again.status, again.attempts, again.input) == (Status.QUEUED, 0, job.input)
    assert again.metadata == {"who": "me", "retry_of": job.id}


def test_only_an_ended_job_is_deleted_and_its_files_are_named(store: JobStore, leases: Leases) -> None:
    job = submit(store)
    with pytest.raises(InvalidTransition, match="cancel it first"):
        store.delete(job.id)
    run_to_success(leases, outputs=2)
    [first, _second] = store.get(job.id).outputs
    assert store.delete(job.id) == ["outputs/x/0.png", "outputs/x/1.png"]
    with pytest.raises(NotFound):
        store.get(job.id)
    with pytest.raises(NotFound):
        store.output(first.id)


def test_an_output_belongs_to_its_jobs_tenant(store: JobStore, leases: Leases) -> None:
    job = submit(store)
    run_to_success(leases)
    [output] = store.get(job.id).outputs
    assert store.output(output.id, tenant="default") == output
    with pytest.raises(NotFound):
        store.output(output.id, tenant="bob")


def test_positions_and_depths_follow_the_order_of_claims(store: JobStore, leases: Leases) -> None:
    late, early, urgent = submit(store, priority=1), submit(store), submit(store, priority=9)
    assert store.positions([urgent, early, late], most=10) == [0, 1, 2]
    [depth] = store.depths()
    assert (depth.queue, depth.queued, depth.held_back) == ("default", 3, 0)
    assert store.ready(10) == {"default": 3} and store.ready(2) == {"default": 2}
    assert [leases.claim("wrk_1", "default")[0].id for _ in range(3)] == [urgent.id, early.id, late.id]
    assert store.depths() == [] and store.ready(10) == {}
