"""What is claimed, in which order, and at which cost, on every database."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from shared.db.engine import Database
from shared.db.tables import clocks, jobs
from shared.jobs import transitions
from shared.jobs.entities import Job
from shared.jobs.leases import Leases
from shared.jobs.reaper import Reaper
from shared.jobs.scheduling import claims
from shared.jobs.scheduling.affinity import OVERTAKE_SECONDS, OVERTAKES, WINDOW
from shared.jobs.store import JobStore
from shared.states import Status
from tests.jobs import plans
from tests.jobs.factory import new_job, submit, taking


def queue_up(store: JobStore, *models: str, **changes: Any) -> None:
    store.submit([new_job(model=model, **changes) for model in models])


def models_of(claimed: list[Job]) -> list[str]:
    return [job.model for job in claimed]


def test_a_worker_prefers_jobs_whose_model_it_has_loaded(store: JobStore, leases: Leases) -> None:
    queue_up(store, "a", "b", "a", "b")
    assert models_of(leases.claim("wrk_1", "default", resident=["b"])) == ["b"]
    assert models_of(leases.claim("wrk_1", "default", limit=3, resident=["b"])) == ["b", "a", "a"]


def test_a_job_is_overtaken_so_many_times_and_then_it_is_its_turn(store: JobStore, leases: Leases) -> None:
    queue_up(store, "a", *["b"] * 30)
    order = [models_of(leases.claim("wrk_1", "default", resident=["b"]))[0] for _ in range(OVERTAKES + 3)]
    assert order == ["b"] * OVERTAKES + ["a", "b", "b"]


def test_many_jobs_claimed_at_once_overtake_no_more_than_one_by_one(store: JobStore, leases: Leases) -> None:
    queue_up(store, "a", *["b"] * 30)
    order = models_of(leases.claim("wrk_1", "default", limit=OVERTAKES + 3, resident=["b"]))
    assert order == ["b"] * OVERTAKES + ["a", "b", "b"]


def test_a_job_is_overtaken_for_so_long_and_then_it_is_its_turn(
    database: Database, store: JobStore, leases: Leases
) -> None:
    queue_up(store, "a", *["b"] * 30)
    assert models_of(leases.claim("wrk_1", "default", resident=["b"])) == ["b"]
    with database.write() as connection:
        past = {"overtaken_since": clocks.c.overtaken_since - OVERTAKE_SECONDS - 1}
        connection.execute(sa.update(clocks).values(past))
    assert models_of(leases.claim("wrk_1", "default", resident=["b"])) == ["a"]


def test_only_what_stands_near_the_head_overtakes(store: JobStore, leases: Leases) -> None:
    queue_up(store, *["a"] * WINDOW, "b")
    assert models_of(leases.claim("wrk_1", "default", resident=["b"])) == ["a"]
    assert models_of(leases.claim("wrk_1", "default", resident=["b"])) == ["b"]


def test_nothing_overtakes_a_higher_priority(store: JobStore, leases: Leases) -> None:
    queue_up(store, "b", "b", priority=5)
    queue_up(store, "a", priority=6)
    assert models_of(leases.claim("wrk_1", "default", resident=["b"])) == ["a"]


def test_overtaking_gives_no_tenant_more_than_its_share_for_long(store: JobStore, leases: Leases) -> None:
    """Two workers, each with one tenant's model: that tenant runs ahead by no more than the window."""
    queue_up(store, *["a"] * 60, tenant="ann")
    queue_up(store, *["b"] * 60, tenant="bob")
    lead = 0
    for _ in range(50):  # only the worker that has bob's model claims
        [job] = leases.claim("wrk_1", "default", resident=["b"])
        lead += 1 if job.tenant == "bob" else -1
        assert lead <= WINDOW


def test_a_job_past_its_expiry_is_not_claimed_even_before_upkeep_ends_it(
    database: Database, store: JobStore, leases: Leases, reaper: Reaper
) -> None:
    late = submit(store, expires_in=3600.0, priority=9)
    good = submit(store, expires_in=3600.0)
    with database.write() as connection:
        now = database.now(connection)
        connection.execute(sa.update(jobs).where(jobs.c.id == late.id).values(expires_at=now))
    assert [job.id for job in leases.claim("wrk_1", "default", limit=5)] == [good.id]
    assert store.get(late.id).status is Status.QUEUED
    assert [job.id for job in reaper.expire()] == [late.id]


def test_a_job_that_expires_between_the_look_and_the_claim_is_left(
    database: Database, store: JobStore, leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(store, expires_in=3600.0)

    def expiring(*arguments: Any, **options: Any) -> Any:
        connection = arguments[1]
        connection.execute(sa.update(jobs).where(jobs.c.id == job.id).values(expires_at=0.0))
        return claim(*arguments, **options)

    claim = transitions.claim
    monkeypatch.setattr(transitions, "claim", expiring)
    assert leases.claim("wrk_1", "default") == []
    assert store.get(job.id).status is Status.QUEUED


def test_workers_with_different_models_share_a_queue_and_leave_nothing(
    store: JobStore, leases: Leases
) -> None:
    queue_up(store, *("a", "b", "c", "d") * 30)
    seen: list[str] = []

    def work(model: str) -> None:
        while found := leases.claim(f"wrk_{model}", "default", limit=2, resident=[model]):
            seen.extend(job.id for job in found)

    threads = [threading.Thread(target=work, args=(model,)) for model in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == len(set(seen)) == 120


def statements(database: Database, work: Callable[[Any], object]) -> list[plans.Sent]:
    """What ``work`` sends in one transaction, which is undone."""
    with plans.sent(database) as found, database.engine.connect() as connection:
        work(connection)
        connection.rollback()
    return [sent for sent in found if sent[0].lstrip().startswith(("SELECT", "UPDATE", "INSERT"))]


def fill(database: Database, store: JobStore) -> Job:
    """A queue of many tenants, models and priorities beside another; returns one of its jobs."""
    for start in range(0, 1500, 500):
        submitted = store.submit(
            [
                new_job(
                    tenant=f"tenant-{number % 40}",
                    model="ab"[number % 2],
                    priority=(5, 9, 1)[number % 3],
                    queue=("default", "default", "other")[number % 5 % 3],
                    expires_in=(None, 3600.0)[number % 7 == 0],
                )
                for number in range(start, start + 500)
            ]
        )
    last = submitted[-1]
    assert not isinstance(last, Exception)
    return last.job


@pytest.mark.parametrize("known", [False, True], ids=["before-analyze", "analyzed"])
def test_a_claim_reads_one_range_of_its_index_and_sorts_no_queue(
    database: Database, store: JobStore, known: bool
) -> None:
    fill(database, store)
    if known:
        plans.analyze(database)
    found = statements(
        database,
        lambda connection: claims.claim(
            database, connection, "default", taking(database, connection), limit=2, resident=["b"]
        ),
    )
    window = next(sent for sent in found if "LIMIT" in sent[0] and sent[0].startswith("SELECT"))
    assert len(found) <= 4
    for sent in found:
        plan = plans.plan(database, sent)
        assert "jobs" not in plan.scans and "SCAN jobs" not in plan.text, plan.text
        assert plan.rows <= WINDOW + 2 and all(rows <= WINDOW + 2 for rows in plan.sorted_rows), plan
    plan = plans.plan(database, window)
    assert "ix_jobs_claim" in plan.text and plan.sorted_rows == [] and "TEMP B-TREE" not in plan.text


@pytest.mark.parametrize("known", [False, True], ids=["before-analyze", "analyzed"])
def test_counting_positions_ends_where_it_was_told_to(
    database: Database, store: JobStore, known: bool
) -> None:
    job = fill(database, store)
    if known:
        plans.analyze(database)
    with plans.sent(database) as found:
        assert store.positions([job], most=50) == [None]
    [sent] = [sent for sent in found if "count" in sent[0]]
    plan = plans.plan(database, sent)
    assert "ix_jobs_claim" in plan.text and "TEMP B-TREE" not in plan.text
    assert plan.rows <= 51 and "jobs" not in plan.scans


@pytest.mark.parametrize("known", [False, True], ids=["before-analyze", "analyzed"])
def test_upkeep_counts_what_is_ready_no_further_than_it_asked(
    database: Database, store: JobStore, known: bool
) -> None:
    fill(database, store)
    if known:
        plans.analyze(database)
    with plans.sent(database) as found:
        assert store.ready(50) == {"default": 50, "other": 50}
    asked = [plans.plan(database, sent) for sent in found if "FROM jobs" in sent[0]]
    assert len(asked) == 5, "three steps from queue to queue, two counts"
    for plan in asked:
        assert "ix_jobs_claim" in plan.text and "TEMP B-TREE" not in plan.text, plan.text
        assert plan.rows <= 50 and plan.scans == []


def test_positions_are_the_order_of_claims_whatever_is_asked_at_once(store: JobStore, leases: Leases) -> None:
    for tenants in ("aaaa", "b", "ccaa", "b"):
        store.submit([new_job(tenant=tenant, priority=5 + (tenant == "c")) for tenant in tenants])
    found = list(store.list("a").items) + list(store.list("b").items) + list(store.list("c").items)
    told = dict(zip((job.id for job in found), store.positions(found, most=100), strict=True))
    assert told == {job.id: store.positions([job], most=100)[0] for job in found}
    near = [None if told[job.id] > 4 else told[job.id] for job in found]  # type: ignore[operator]
    assert store.positions(found, most=4) == near
    order = [job.id for job in leases.claim("wrk_1", "default", limit=10)]
    assert sorted(told, key=lambda job_id: told[job_id] or 0) == order


def test_a_submission_gets_its_tags_in_one_small_statement(database: Database, store: JobStore) -> None:
    fill(database, store)
    with plans.sent(database) as found:
        store.submit([new_job(tenant=f"tenant-{number}") for number in range(64)])
    writes = [statement for statement, _ in found if statement.startswith(("INSERT", "UPDATE"))]
    assert len(writes) == 2 and "INTO shares" in writes[0] and "INTO jobs" in writes[1]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_postgresql_soon_removes_what_claims_leave_in_the_index(database: Database) -> None:
    with database.read() as connection:
        options = connection.execute(sa.text("SELECT reloptions FROM pg_class WHERE relname = 'jobs'"))
        assert "autovacuum_vacuum_scale_factor=0.01" in options.scalar_one()
