"""Transactions that lock several rows do so in one order, so that none of two that meet is broken off.

PostgreSQL ends one of two that wait for each other, and its caller would be told that the database is away.
SQLite has one writer at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
import sqlalchemy as sa

from shared.db.engine import Database
from shared.db.tables import deliveries, jobs
from shared.jobs.dependencies import Dependencies
from shared.jobs.entities import Finish, Job, Submitted, Succeeded
from shared.jobs.leases import Leases
from shared.jobs.reaper import Reaper
from shared.jobs.store import JobStore
from shared.states import Status
from shared.webhooks.outbox import Outbox
from shared.webhooks.subscription import ENDINGS, Webhook
from tests.jobs.factory import new_job, submit
from tests.jobs.meeting import pause, started, waiting
from tests.servers import wait_until

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture
def other(database: Database) -> Iterator[Database]:
    """A second pool of connections to the same database, as another process has."""
    opened = Database(database.url.render_as_string(hide_password=False))
    yield opened
    opened.dispose()


def succeeded(store: JobStore, leases: Leases) -> Job:
    job = submit(store)
    leases.finish([Finish(one.id, one.attempt, Succeeded()) for one in leases.claim("wrk_1", "default")])
    return store.get(job.id)


def test_a_job_is_retried_while_what_waits_for_it_goes_on(
    store: JobStore, leases: Leases, database: Database, other: Database
) -> None:
    first = submit(store)
    second = submit(store, depends_on=(first.id,))
    [claimed] = leases.claim("wrk_1", "default")
    leases.finish([Finish(claimed.id, claimed.attempt, Succeeded())])
    released: list[Future[list[Job]]] = []

    def settling() -> bool:
        released or released.append(started(Dependencies(other).settle))
        return released[0].done() or waiting(database) > 0

    pause(database, "UPDATE jobs SET retried_as", settling)
    again = store.retry(first.id)
    assert [job.id for job in released[0].result(30)] == [second.id]
    assert store.get(first.id).retried_as == again.id


def test_a_job_is_retried_while_another_is_submitted_that_depends_on_it(
    store: JobStore, leases: Leases, database: Database, other: Database
) -> None:
    first = succeeded(store, leases)
    later: list[Future[Job]] = []

    def submitting() -> bool:
        later or later.append(started(lambda: submit(JobStore(other), depends_on=(first.id,))))
        return later[0].done() or waiting(database) > 0

    pause(database, "UPDATE jobs SET retried_as", submitting)
    store.retry(first.id)
    assert later[0].result(30).status is Status.QUEUED


def test_jobs_expire_while_what_they_waited_for_is_settled(
    store: JobStore, leases: Leases, database: Database, other: Database, reaper: Reaper
) -> None:
    first = submit(store)
    later = submit(store, depends_on=(first.id,), expires_in=0.0)
    sooner = submit(store, depends_on=(first.id,), expires_in=-1.0)
    [claimed] = leases.claim("wrk_1", "default")
    leases.finish([Finish(claimed.id, claimed.attempt, Succeeded())])
    mine = sa.update(jobs).where(jobs.c.id == later.id)
    with database.write() as connection:  # so that it lies behind the other one in the table too
        connection.execute(mine.values(metadata={}))
    with database.write() as connection:
        connection.execute(mine.values(metadata={"held": True}))
        settled = started(Dependencies(other).settle)
        wait_until(lambda: waiting(database) == 1, what="the settling to wait for the job that is held")
        expired = started(Reaper(other).expire)
        wait_until(lambda: expired.done() or waiting(database) == 2, what="the expiry")
    assert sooner.id in {job.id for job in expired.result(30)}
    settled.result(30)
    reaper.expire()
    assert {store.get(job.id).status for job in (later, sooner)} <= {Status.EXPIRED, Status.QUEUED}
    assert store.get(sooner.id).status is Status.EXPIRED


def test_deliveries_that_are_moved_together_do_not_wait_for_one_that_somebody_holds(
    store: JobStore, database: Database, other: Database
) -> None:
    """Whoever holds it may want one of the others next."""
    hook = Webhook(url="https://example.com/hook", events=ENDINGS)
    for job in [submit(store, webhook=hook) for _ in range(3)]:
        store.cancel(job.id)
    with database.read() as connection:
        held = connection.execute(sa.select(deliveries.c.id)).scalars().first()
    outbox, mine, now = Outbox(other), deliveries.c.id == held, sa.func.extract("epoch", sa.func.now())

    def moved(move: Any, **values: Any) -> Any:
        with database.write() as connection:
            connection.execute(sa.update(deliveries).values(**values))
        with database.write() as connection:
            connection.execute(sa.update(deliveries).where(mine).values(tries=7))
            going = started(move)
            wait_until(lambda: going.done() or waiting(database) > 0, what="the others to be moved")
            assert going.done(), "it waits for what is held"
        return going.result(30)

    def there(*where: Any) -> int:
        with database.read() as connection:
            return connection.execute(
                sa.select(sa.func.count()).select_from(deliveries).where(*where)
            ).scalar_one()

    moved(lambda: outbox.postpone("default", "example.com", 600), next_at=0)
    assert there(deliveries.c.next_at > now + 60) == 2 and there(mine, deliveries.c.next_at <= now) == 1
    moved(lambda: outbox.prune(600), next_at=0, give_up_at=0)
    assert there(deliveries.c.status == "dead") == 2 and there(mine, deliveries.c.status == "pending") == 1
    assert moved(lambda: outbox.prune(600), status="dead", ended_at=0) == 2
    assert outbox.prune(600) == 1


def test_two_that_submit_the_same_keys_in_another_order_both_get_their_jobs(
    store: JobStore, database: Database, other: Database
) -> None:
    """As when a client repeats its requests to a second process while the first still works on them."""
    new = [
        new_job(idempotency_key=key, fingerprint=key, run_at=4e9) for key in ("a", "b")
    ]  # queued ones would meet at their tenant's share before that
    second: list[Future[Any]] = []

    def submitting() -> bool:
        second or second.append(started(lambda: JobStore(other).submit(new[::-1])))
        return second[0].done() or waiting(database) > 0

    pause(database, "INSERT INTO jobs", submitting, nth=2)
    made = store.submit(new)
    theirs = second[0].result(30)
    assert all(isinstance(one, Submitted) for one in (*made, *theirs))
    assert [one.job.id for one in theirs] == [one.job.id for one in reversed(made)]  # type: ignore[union-attr]
