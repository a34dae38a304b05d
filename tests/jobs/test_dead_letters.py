"""Dead letters: found, and tried again once, with what they depend on, on every database."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import sqlalchemy as sa

from shared.db.engine import Database
from shared.db.tables import jobs
from shared.errors import Conflict
from shared.ids import new_id
from shared.jobs.dead_letters import DeadLetters, Filter
from shared.jobs.dependencies import Dependencies
from shared.jobs.entities import Failed, Finish, Job, Succeeded
from shared.jobs.leases import Leases
from shared.jobs.store import JobStore
from shared.states import Status
from tests.jobs import plans
from tests.jobs.factory import submit

BROKE = Failed(type="internal", message="broke")


@pytest.fixture
def letters(database: Database) -> DeadLetters:
    return DeadLetters(database)


@pytest.fixture
def dependencies(database: Database) -> Dependencies:
    return Dependencies(database)


def end(leases: Leases, job: Job, ending: Failed | Succeeded = BROKE) -> None:
    [claimed] = leases.claim("wrk_1", "default")
    assert claimed.id == job.id
    leases.finish([Finish(job.id, claimed.attempt, ending)])


def dead(store: JobStore, leases: Leases, ending: Failed = BROKE, **changes: Any) -> Job:
    job = submit(store, **changes)
    end(leases, job, ending)
    return store.get(job.id)


def pair(store: JobStore, leases: Leases, dependencies: Dependencies) -> tuple[Job, Job]:
    """A job that failed, and one that failed for it."""
    first = submit(store)
    second = submit(store, depends_on=(first.id,))
    end(leases, first)
    dependencies.settle()
    return first, second


def untried(letters: DeadLetters, which: Filter | None = None, after: str = "") -> list[str]:
    found = letters.untried("default", which or Filter(), limit=10, after=after, until=new_id("job"))
    return list(found)


def test_letters_are_found_by_what_they_are_and_when_they_failed(
    store: JobStore, leases: Leases, letters: DeadLetters
) -> None:
    first = dead(store, leases, Failed(type="out-of-memory", message="too big"), group="g")
    second = dead(store, leases, model="other", task="upscale")
    end(leases, submit(store), Succeeded())
    assert first.finished_at is not None and second.finished_at is not None
    between = (first.finished_at + second.finished_at) / 2
    for which, expected in [
        (Filter(), [second, first]),
        (Filter(error_type="out-of-memory"), [first]),
        (Filter(group="g"), [first]),
        (Filter(model="other"), [second]),
        (Filter(task="upscale"), [second]),
        (Filter(since=between), [second]),
        (Filter(since=between, group="g"), []),
    ]:
        page = letters.list("default", which, limit=10)
        assert [one.id for one in page.items] == [job.id for job in expected]
        assert untried(letters, which) == [job.id for job in reversed(expected)]
    assert letters.list("another", Filter(), limit=10).items == ()


def test_pages_follow_one_another(store: JobStore, leases: Leases, letters: DeadLetters) -> None:
    made = [dead(store, leases).id for _ in range(3)]
    page = letters.list("default", Filter(), limit=2)
    rest = letters.list("default", Filter(), limit=2, cursor=page.next_cursor)
    assert [job.id for job in (*page.items, *rest.items)] == made[::-1]
    assert rest.next_cursor is None
    assert untried(letters, after=made[0]) == made[1:]


def test_a_letter_is_retried_once(store: JobStore, leases: Leases, letters: DeadLetters) -> None:
    letter = dead(store, leases)
    again = store.retry(letter.id, once=True)
    assert store.get(letter.id).retried_as == again.id
    assert untried(letters) == []
    with pytest.raises(Conflict, match=f"retried already, as {again.id}"):
        store.retry(letter.id, once=True)
    assert store.counts() == {"failed": 1, "queued": 1}
    assert store.get(letter.id).retried_as == again.id


def test_by_hand_it_is_retried_as_often_as_one_likes_and_the_last_is_named(
    store: JobStore, leases: Leases
) -> None:
    letter = dead(store, leases)
    store.retry(letter.id)
    last = store.retry(letter.id)
    assert store.get(letter.id).retried_as == last.id
    assert store.counts() == {"failed": 1, "queued": 2}


def test_of_many_who_retry_it_at_once_one_does(store: JobStore, leases: Leases) -> None:
    letter = dead(store, leases)
    made: list[Job] = []
    refused: list[Conflict] = []

    def retry() -> None:
        try:
            made.append(store.retry(letter.id, once=True))
        except Conflict as error:
            refused.append(error)

    threads = [threading.Thread(target=retry) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (len(made), len(refused)) == (1, 7)
    assert store.counts() == {"failed": 1, "queued": 1}


def test_a_job_that_failed_for_another_waits_for_its_retry_and_reads_what_that_makes(
    store: JobStore, leases: Leases, dependencies: Dependencies
) -> None:
    first = submit(store)
    read = {"dataset": {"job": first.id, "output": 0}, "masks": [{"job": first.id, "output": 1}], "steps": 3}
    second = submit(store, depends_on=(first.id,), input=read)
    end(leases, first)
    dependencies.settle()
    assert store.get(second.id).status is Status.FAILED
    with pytest.raises(Conflict, match=f"depends on {first.id}, which is failed; retry that one first"):
        store.retry(second.id)
    newer = store.retry(first.id)
    again = store.retry(second.id)
    assert (again.status, again.depends_on, again.waits_for) == (Status.SCHEDULED, (newer.id,), 1)
    assert again.input == {
        "dataset": {"job": newer.id, "output": 0},
        "masks": [{"job": newer.id, "output": 1}],
        "steps": 3,
    }
    end(leases, newer, Succeeded())
    assert [job.id for job in dependencies.settle()] == [again.id]


def test_the_last_of_several_retries_is_what_counts(
    store: JobStore, leases: Leases, dependencies: Dependencies
) -> None:
    first, second = pair(store, leases, dependencies)
    worse = store.retry(first.id)
    end(leases, worse)
    with pytest.raises(Conflict, match=f"depends on {worse.id}, which is failed"):
        store.retry(second.id)
    better = store.retry(worse.id)
    end(leases, better, Succeeded())
    assert (again := store.retry(second.id)).depends_on == (better.id,)
    assert again.status is Status.QUEUED


def test_a_job_that_depends_on_one_that_is_gone_cannot_be_retried(
    store: JobStore, leases: Leases, dependencies: Dependencies
) -> None:
    first, second = pair(store, leases, dependencies)
    store.delete(first.id)
    with pytest.raises(Conflict, match="does not exist any more; submit a new job"):
        store.retry(second.id)
    assert store.counts() == {"failed": 1}


def test_letters_that_were_tried_again_are_not_read_when_the_others_are(
    database: Database, store: JobStore, leases: Leases, letters: DeadLetters
) -> None:
    for _ in range(20):
        dead(store, leases)
    with database.write() as connection:
        connection.execute(sa.update(jobs).values(retried_as="job_1"))
    last = dead(store, leases)
    with plans.sent(database) as found:
        assert untried(letters) == [last.id]
    [sent] = [sent for sent in found if "retried_as" in sent[0]]
    plan = plans.plan(database, sent)
    assert "ix_jobs_untried" in plan.text and plan.rows <= 1, plan
