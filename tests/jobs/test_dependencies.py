"""Jobs that wait for others, on every database."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence

import pytest
import sqlalchemy as sa

from shared.db import tables
from shared.db.engine import Database
from shared.errors import Conflict
from shared.jobs.dependencies import Dependencies
from shared.jobs.entities import Ending, Failed, Finish, Job, Submitted, Succeeded
from shared.jobs.leases import Leases
from shared.jobs.reaper import Reaper
from shared.jobs.store import JobStore
from shared.states import Status
from tests.jobs.factory import new_job, new_output, submit

FAILURE = Failed(type="internal", message="broke")


@pytest.fixture
def dependencies(database: Database) -> Dependencies:
    return Dependencies(database)


def end_all(leases: Leases, ending: Ending | None = None) -> list[str]:
    """Run every job that is queued to such an end."""
    claimed = leases.claim("wrk_1", "default", limit=2000)
    leases.finish([Finish(job.id, job.attempt, ending or Succeeded()) for job in claimed])
    return [job.id for job in claimed]


def statuses(store: JobStore, made: Sequence[Job]) -> list[str]:
    return [store.get(job.id).status.value for job in made]


def test_a_job_is_queued_when_all_that_it_depends_on_has_succeeded(
    store: JobStore, leases: Leases, dependencies: Dependencies
) -> None:
    first, second = submit(store, priority=9), submit(store)
    last = submit(store, depends_on=(first.id, second.id, first.id))
    assert (last.status, last.waits_for, last.depends_on) == (Status.SCHEDULED, 2, (first.id, second.id))
    assert store.get(last.id) == last
    [job] = leases.claim("wrk_1", "default")
    leases.finish([Finish(job.id, job.attempt, Succeeded())])
    assert dependencies.settle() == []
    assert store.get(last.id).waits_for == 1
    assert end_all(leases) == [second.id]
    [woken] = dependencies.settle()
    assert (woken.id, woken.status, woken.waits_for) == (last.id, Status.QUEUED, 0)
    assert dependencies.settle() == []
    assert end_all(leases) == [last.id]


def test_what_has_succeeded_already_is_not_waited_for(store: JobStore, leases: Leases) -> None:
    done = submit(store)
    end_all(leases)
    assert submit(store, depends_on=(done.id,)).status is Status.QUEUED


def test_a_job_that_is_due_later_waits_for_its_time_too(
    store: JobStore, leases: Leases, dependencies: Dependencies
) -> None:
    first = submit(store)
    later = submit(store, depends_on=(first.id,), run_at=first.created_at + 1e6)
    end_all(leases)
    assert dependencies.settle() == []
    assert (store.get(later.id).status, store.get(later.id).waits_for) == (Status.SCHEDULED, 0)


def test_a_time_that_has_come_does_not_queue_what_still_waits_for_others(
    store: JobStore, leases: Leases, database: Database, dependencies: Dependencies, reaper: Reaper
) -> None:
    first = submit(store)
    both = submit(store, depends_on=(first.id,), run_at=first.created_at + 1e6)
    with database.write() as connection:
        connection.execute(sa.update(tables.jobs).where(tables.jobs.c.id == both.id).values(due_at=1.0))
    assert reaper.wake_due() == []
    end_all(leases)
    assert [job.id for job in dependencies.settle()] == [both.id]


@pytest.mark.parametrize("how", ["failed", "canceled", "expired"])
def test_a_bad_end_fails_all_that_depend_on_it_and_names_the_job_that_failed(
    how: str, store: JobStore, leases: Leases, dependencies: Dependencies, reaper: Reaper
) -> None:
    first = submit(store, expires_in=0.0 if how == "expired" else None)
    second = submit(store, depends_on=(first.id,))
    third = submit(store, depends_on=(second.id,))
    if how == "failed":
        end_all(leases, FAILURE)
    elif how == "canceled":
        store.cancel(first.id)
    else:
        reaper.expire()
    assert [job.id for job in dependencies.settle()] == [second.id, third.id]
    why = {
        "failed": "failed: broke",
        "canceled": "was canceled",
        "expired": "did not start in time",
    }[how]
    for job in (store.get(second.id), store.get(third.id)):
        assert job.error == {
            "type": "dependency-failed",
            "message": f"it depends on {first.id}, which {why}",
            "retryable": False,
        }
        assert (job.status, job.attempts) == (Status.FAILED, 0) and job.finished_at is not None


def test_what_depends_on_a_job_that_has_failed_already_fails_at_once(store: JobStore, leases: Leases) -> None:
    first = submit(store)
    end_all(leases, FAILURE)
    second = submit(store, depends_on=(first.id,))
    assert second.status is Status.FAILED and second == store.get(second.id)
    assert second.error is not None and second.error["type"] == "dependency-failed"
    assert submit(store, depends_on=(second.id,)).error == second.error


def test_a_job_that_is_not_there_or_another_tenants_is_never_waited_for(
    store: JobStore, leases: Leases
) -> None:
    foreign = submit(store, tenant="bob")
    end_all(leases)
    for needed in (foreign.id, "job_01ARZ3NDEKTSV4RRFFQ69G5FAV"):
        job = submit(store, depends_on=(needed,))
        assert job.status is Status.FAILED
        assert job.error is not None and job.error["message"].endswith("does not exist any more")


def test_a_replay_enters_nothing_again(store: JobStore, database: Database) -> None:
    first = submit(store)
    new = new_job(depends_on=(first.id,), idempotency_key="k", fingerprint="a")
    made, replayed = store.submit([new, new])
    assert isinstance(made, Submitted) and replayed == Submitted(made.job, replayed=True)
    with database.read() as connection:
        count = sa.select(sa.func.count()).select_from(tables.dependencies)
        assert connection.execute(count).scalar_one() == 1


def chain(store: JobStore, database: Database, length: int) -> list[str]:
    """So many jobs of which each depends on the one before. Submitting them one by one takes its time."""
    jobs, edges = tables.jobs, tables.dependencies
    ids = [
        one.job.id for one in store.submit([new_job() for _ in range(length)]) if isinstance(one, Submitted)
    ]
    with database.write() as connection:
        connection.execute(
            sa.insert(edges), [{"job_id": b, "needs": a, "met": False} for a, b in itertools.pairwise(ids)]
        )
        connection.execute(sa.update(jobs).values(awaited=True))
        later = sa.update(jobs).where(jobs.c.id != ids[0])
        connection.execute(later.values(status="scheduled", waits_for=1, queued_at=None))
    return ids


def test_a_chain_of_a_thousand_fails_to_its_end(
    store: JobStore, database: Database, dependencies: Dependencies
) -> None:
    first, *others = chain(store, database, 1001)
    store.cancel(first)
    moved = dependencies.settle(120)
    assert [job.id for job in moved] == others
    assert store.counts() == {"canceled": 1, "failed": 1000}
    assert {(job.error or {})["message"] for job in moved} == {f"it depends on {first}, which was canceled"}
    assert dependencies.settle() == []


@pytest.mark.slow
def test_a_thousand_jobs_go_on_after_one_and_one_after_a_thousand(
    store: JobStore, leases: Leases, dependencies: Dependencies
) -> None:
    first = submit(store)
    store.submit([new_job(depends_on=(first.id,)) for _ in range(1000)])
    assert end_all(leases) == [first.id]
    fan = dependencies.settle(60)
    assert {job.status for job in fan} == {Status.QUEUED} and len(fan) == 1000
    last = submit(store, depends_on=tuple(job.id for job in fan))
    assert last.waits_for == 1000
    assert len(end_all(leases)) == 1000
    assert [job.id for job in dependencies.settle(60)] == [last.id]


def test_whoever_dies_before_it_has_settled_leaves_it_to_the_next(
    store: JobStore, leases: Leases, dependencies: Dependencies
) -> None:
    first = submit(store)
    waiting = [submit(store, depends_on=(first.id,)) for _ in range(3)]
    end_all(leases)  # and the worker is killed here: nobody settles
    assert set(statuses(store, waiting)) == {"scheduled"}
    assert len(dependencies.settle()) == 3


def test_many_that_settle_and_submit_at_once_lose_nothing_and_wake_nobody_twice(
    store: JobStore, leases: Leases, database: Database
) -> None:
    needed = [submit(store).id for _ in range(40)]
    moved: list[str] = []
    made: list[str] = []
    ended: list[str] = []

    def submit_more() -> None:
        for number in range(20):
            new = submit(store, depends_on=tuple(needed[number : number + 20]), queue="later")
            made.append(new.id)

    def finish() -> None:
        while len(ended) < len(needed):  # a claim passes over what a submission holds just now
            jobs = leases.claim("wrk_1", "default", limit=3)
            leases.finish([Finish(job.id, job.attempt, Succeeded()) for job in jobs])
            ended.extend(job.id for job in jobs)
            moved.extend(job.id for job in Dependencies(database).settle())

    threads = [threading.Thread(target=work) for work in (submit_more, submit_more, finish, finish, finish)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    moved += [job.id for job in Dependencies(database).settle()]
    assert len(made) == 40 and len(moved) == len(set(moved)) and set(moved) <= set(made)
    assert {store.get(job_id).status for job_id in made} == {Status.QUEUED}


def test_what_others_depend_on_is_not_deleted_before_they_have_ended(
    store: JobStore, leases: Leases, dependencies: Dependencies
) -> None:
    first = submit(store)
    second = submit(store, depends_on=(first.id,))
    end_all(leases, Succeeded(outputs=(new_output(),)))
    for _ in range(2):  # neither while it waits, nor while it is queued: it may read the outputs
        with pytest.raises(Conflict, match="cancel that one first"):
            store.delete(first.id)
        dependencies.settle()
    store.cancel(second.id)
    assert store.delete(first.id) == ["outputs/x/0.png"]
    store.delete(second.id)


def test_settled_ends_are_found_by_their_index(database: Database) -> None:
    query = sa.select(tables.jobs.c.id).where(tables.unsettled).order_by(tables.jobs.c.id).limit(5)
    text = str(query.compile(database.engine, compile_kwargs={"literal_binds": True}))
    with database.read() as connection:
        if database.dialect == "sqlite":
            plan = " ".join(row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}"))
        else:
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            plan = " ".join(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {text}"))
    assert "ix_jobs_unsettled" in plan
