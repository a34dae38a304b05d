"""How many jobs of a tenant run at once, on every database."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
import sqlalchemy as sa

from shared.db.engine import Database
from shared.db.tables import jobs
from shared.jobs.entities import Failed, Finish, HandedBack, Job, Succeeded
from shared.jobs.leases import Leases
from shared.jobs.reaper import Reaper
from shared.jobs.scheduling import claims, concurrency_limits
from shared.jobs.scheduling.affinity import WINDOW
from shared.jobs.scheduling.concurrency_limits import ConcurrencyLimits
from shared.jobs.store import JobStore
from tests.jobs import plans
from tests.jobs.factory import new_job, submit, taking
from tests.jobs.test_claims import statements


class Limits(dict[str, int]):
    """By tenant; those not named have none."""

    def most(self, tenant: str) -> int:
        return self.get(tenant, 0)


@pytest.fixture
def limits() -> Limits:
    return Limits(ann=2)


@pytest.fixture
def leases(database: Database, limits: Limits) -> Leases:
    return Leases(database, lease_seconds=30, running_limit=limits.most)


@pytest.fixture
def ends(database: Database, limits: Limits) -> ConcurrencyLimits:
    return ConcurrencyLimits(database, limits.most)


def queue_up(store: JobStore, tenants: str, **changes: object) -> list[str]:
    """A job for each letter, ``a`` of ann and ``b`` of bob; their ids."""
    names = {"a": "ann", "b": "bob"}
    submitted = store.submit([new_job(tenant=names[letter], **changes) for letter in tenants])
    return [one.job.id for one in submitted if not isinstance(one, Exception)]


def claim(leases: Leases, limit: int = 20, worker: str = "wrk_1", queue: str = "default") -> list[Job]:
    return leases.claim(worker, queue, limit=limit)


def ids(claimed: list[Job]) -> list[str]:
    return [job.id for job in claimed]


def succeed(leases: Leases, *ended: Job) -> None:
    leases.finish([Finish(job.id, job.attempt, Succeeded(outputs=[])) for job in ended])


def parked(store: JobStore, tenant: str = "ann") -> list[str]:
    return sorted(job.id for job in store.list(tenant).items if job.parked)


def test_a_tenant_has_no_more_running_than_its_limit_and_others_go_on(
    store: JobStore, leases: Leases, ends: ConcurrencyLimits
) -> None:
    queued = queue_up(store, "aaaaabb")
    ann, bob = queued[:5], queued[5:]
    assert sorted(ids(claim(leases))) == sorted(ann[:2] + bob)
    assert parked(store) == ann[2:]
    assert claim(leases) == []


def test_one_claim_after_another_keeps_the_limit_too(store: JobStore, leases: Leases) -> None:
    queue_up(store, "aaaab")
    claimed = [job.tenant for _ in range(5) for job in claim(leases, 1)]
    assert Counter(claimed) == {"ann": 2, "bob": 1}


def test_when_a_job_ends_the_next_of_its_tenant_is_let_in(
    store: JobStore, leases: Leases, ends: ConcurrencyLimits
) -> None:
    queued = queue_up(store, "aaaaa")
    first, second = claim(leases)
    succeed(leases, first)
    assert claim(leases) == []
    assert ends.unpark("ann") == {"default": 1}
    assert ids(claim(leases)) == queued[2:3]
    assert parked(store) == queued[3:]
    succeed(leases, second)
    assert ends.unpark("bob") == {}, "a tenant without a limit has nothing to wait for"


@pytest.mark.parametrize("ending", [HandedBack(), Failed(type="internal", message="x", retryable=True)])
def test_however_an_attempt_ends_its_place_is_free(
    database: Database, store: JobStore, leases: Leases, ends: ConcurrencyLimits, ending: HandedBack | Failed
) -> None:
    queued = queue_up(store, "aaaa")
    first, _ = claim(leases)
    leases.finish([Finish(first.id, first.attempt, ending)])
    ends.unpark("ann")
    again = [] if isinstance(ending, Failed) else [first.id]
    assert ids(claim(leases)) == (again or queued[2:3])


def test_a_place_that_a_dead_worker_held_is_free_once_its_lease_is_out(
    database: Database, store: JobStore, limits: Limits, ends: ConcurrencyLimits, reaper: Reaper
) -> None:
    leases = Leases(database, lease_seconds=-1, running_limit=limits.most)
    queued = queue_up(store, "aaa")
    assert len(claim(leases)) == 2
    reaper.reap()
    assert ids(claim(leases)) == queued[:2], "what was lost runs again before what comes after it"
    reaper.reap()
    assert ends.unpark_all() == {}, "the two that are queued again are the next ones"


def test_unparking_more_than_once_unparks_no_more(
    store: JobStore, leases: Leases, ends: ConcurrencyLimits
) -> None:
    queued = queue_up(store, "aaaaa")
    succeed(leases, *claim(leases))
    assert ends.unpark("ann") == {"default": 2}
    assert ends.unpark("ann") == ends.unpark_all() == {}
    assert parked(store) == queued[4:]


def test_the_best_are_let_in_also_before_what_nobody_has_passed_over_yet(
    store: JobStore, leases: Leases, ends: ConcurrencyLimits
) -> None:
    waiting = queue_up(store, "aaaa", priority=5)
    running = claim(leases)
    late = queue_up(store, "a", priority=1) + queue_up(store, "a", priority=9)
    succeed(leases, *running)
    ends.unpark("ann")
    assert ids(claim(leases)) == [late[1], waiting[2]]


def test_a_tenant_that_waits_in_one_queue_is_not_stuck_in_another(
    store: JobStore, leases: Leases, ends: ConcurrencyLimits
) -> None:
    queue_up(store, "aaaa", queue="default")
    others = queue_up(store, "aaaa", queue="other")
    running = claim(leases)
    assert claim(leases, queue="other") == []
    succeed(leases, *running)
    assert ends.unpark("ann") == {"default": 2, "other": 2}
    assert ids(claim(leases, queue="other")) == others[:2]
    assert claim(leases) == [], "what was let in there as well is parked again"


@pytest.mark.parametrize("more", [3, 0])
def test_a_raised_limit_and_a_removed_one_hold_from_the_next_round_on(
    store: JobStore, leases: Leases, limits: Limits, ends: ConcurrencyLimits, more: int
) -> None:
    queue_up(store, "aaaaaa")
    assert len(claim(leases)) == 2
    limits["ann"] = more
    let_in = 1 if more else 4
    assert ends.unpark_all() == {"default": let_in}
    assert len(claim(leases)) == let_in


def test_a_lowered_limit_stops_nothing_that_runs(
    store: JobStore, leases: Leases, limits: Limits, ends: ConcurrencyLimits
) -> None:
    queue_up(store, "aaaa")
    running = claim(leases)
    limits["ann"] = 1
    succeed(leases, running[0])
    assert ends.unpark("ann") == {}
    succeed(leases, running[1])
    assert ends.unpark("ann") == {"default": 1}


def test_what_is_parked_can_be_canceled_and_expires(
    database: Database, store: JobStore, leases: Leases, ends: ConcurrencyLimits, reaper: Reaper
) -> None:
    queued = queue_up(store, "aaaa", expires_in=3600.0)
    claim(leases)
    assert not store.cancel(queued[2]).parked
    with database.write() as connection:
        connection.execute(sa.update(jobs).where(jobs.c.id == queued[3]).values(expires_at=0.0))
    assert ids(reaper.expire()) == queued[3:]
    assert ends.unpark_all() == {}


def test_a_deep_backlog_of_a_full_tenant_is_passed_over_and_costs_each_job_one_write(
    database: Database, store: JobStore, leases: Leases
) -> None:
    queue_up(store, "a" * 600, priority=9)
    [bob] = queue_up(store, "b")
    claimed = claim(leases, 3)
    assert [job.tenant for job in claimed] == ["ann", "ann", "bob"] and claimed[2].id == bob
    [depth] = store.depths()
    assert (depth.queued, depth.held_back, depth.oldest_seconds) == (0, 598, None)
    with plans.sent(database) as found:
        assert claim(leases) == []
    assert not any(statement.startswith("UPDATE") for statement, _ in found)


def test_what_is_parked_is_before_nobody(store: JobStore, leases: Leases) -> None:
    queue_up(store, "a" * 6)
    claim(leases)
    late = submit(store, tenant="bob")
    assert store.positions([late], most=10) == [0]


def test_workers_that_claim_at_once_keep_the_limit(
    database: Database, store: JobStore, limits: Limits
) -> None:
    """Each counts what runs before and after; whoever sees more than the limit tells."""
    limits["ann"] = 3
    queue_up(store, "aab" * 20)
    start, seen = threading.Barrier(4), []

    def work(worker: str) -> None:
        leases, ends = (
            Leases(database, 30, running_limit=limits.most),
            ConcurrencyLimits(database, limits.most),
        )
        start.wait()
        for _ in range(200):
            found = claim(leases, 2, worker)
            seen.append(_running(database, "ann"))
            done.extend(job.tenant for job in found)
            if found:
                succeed(leases, *found)
                ends.unpark("ann")
            if len(done) == 60:
                break

    done: list[str] = []
    threads = [threading.Thread(target=work, args=(f"wrk_{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(seen) <= 3
    assert Counter(done) == {"ann": 40, "bob": 20}, "nothing is left behind"


def _running(database: Database, tenant: str) -> int:
    query = sa.select(sa.func.count()).where(jobs.c.tenant == tenant, jobs.c.status == "running")
    with database.read() as connection:
        return connection.execute(query).scalar_one()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_claim_waits_for_another_that_may_take_the_last_place(
    database: Database, store: JobStore, leases: Leases, limits: Limits
) -> None:
    queue_up(store, "aaa")
    claimed: list[Job] = []
    second = threading.Thread(target=lambda: claimed.extend(claim(leases, worker="wrk_2")))
    with database.write() as connection:
        first = claims.claim(
            database, connection, "default", taking(database, connection), limit=1, running_limit=limits.most
        )
        second.start()
        second.join(0.3)
        assert second.is_alive() and claimed == []
    second.join(30)
    assert len(first) == len(claimed) == 1


@pytest.mark.parametrize("known", [False, True], ids=["before-analyze", "analyzed"])
def test_a_claim_among_tenants_with_limits_reads_no_more_than_its_window(
    database: Database, store: JobStore, limits: Limits, known: bool
) -> None:
    queue_up(store, "aab" * 300)
    claim(Leases(database, 30, running_limit=limits.most))
    queue_up(store, "aab" * 300, priority=9)
    if known:
        plans.analyze(database)
    found = statements(
        database,
        lambda connection: claims.claim(
            database, connection, "default", taking(database, connection), limit=1, running_limit=limits.most
        ),
    )
    assert sum("aside" in text and text.startswith("UPDATE jobs SET aside") for text, _ in found) == 1
    for sent in found:
        plan = plans.plan(database, sent)
        assert "SCAN jobs" not in plan.text and "Seq Scan jobs" not in plan.text, plan.text
        assert plan.rows <= 2 * (WINDOW + 1), (plan, sent[0])  # each with the clocks of two priorities


@pytest.mark.parametrize("known", [False, True], ids=["before-analyze", "analyzed"])
def test_letting_in_reads_what_it_lets_in(
    database: Database, store: JobStore, leases: Leases, ends: ConcurrencyLimits, known: bool
) -> None:
    queue_up(store, "a" * 400 + "b" * 400)
    running = [job for job in claim(leases) if job.tenant == "ann"]
    succeed(leases, running[0])
    if known:
        plans.analyze(database)
    with plans.sent(database) as found:
        assert ends.unpark_all() == {"default": 1}
    for sent in found:
        if sent[0].startswith(("SELECT", "UPDATE")) and "FROM jobs" in sent[0]:
            plan = plans.plan(database, sent)
            assert "SCAN jobs" not in plan.text and "Seq Scan jobs" not in plan.text, plan.text
            most = 20 if "count(" in sent[0] else 2  # never more than what runs
            assert plan.rows <= most and plan.sorted_rows == [], (plan, sent[0])


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_sqlite_counts_what_runs_and_no_more_whichever_index_was_built_last(
    database: Database, store: JobStore, leases: Leases, ends: ConcurrencyLimits
) -> None:
    queue_up(store, "aaaa")
    for index in jobs.indexes:
        if index.name == "ix_jobs_tenant":
            index.drop(database.engine)
            index.create(database.engine)
    with plans.sent(database) as found:
        succeed(leases, *claim(leases))
        assert ends.unpark_all() == {"default": 2}
    counts = [sent for sent in found if "count(" in sent[0]]
    steps = [sent for sent in found if "min(" in sent[0]]
    assert len(counts) == 3 and len(steps) >= 2
    assert all("ix_jobs_running" in plans.plan(database, sent).text for sent in counts)
    assert all("ix_jobs_aside" in plans.plan(database, sent).text for sent in steps)


def test_no_limit_costs_a_claim_nothing(database: Database, store: JobStore) -> None:
    queue_up(store, "ab")
    with plans.sent(database) as found:
        claim(Leases(database, 30, running_limit=concurrency_limits.unlimited))
    assert not any("running' AND" in text or "advisory" in text for text, _ in found)
